"""What an alignment leaves for particles that come later: its average, and all that comparing with it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cryorbit.alignment.locate import Model
from cryorbit.alignment.reader import OpticsGroups
from cryorbit.alignment.templates import AverageSums, Geometry, Template

Signature = tuple[float, ...]


@dataclass(frozen=True)
class AverageMemory:
    """An average that was learnt.

    Attributes
    ----------
    model
        The average and all that locating particles needs.
    halves
        Sums of two halves of all particles so far, aligned apart from each other.
    optics
        Voltage, spherical aberration, amplitude contrast and phase shift of each optics group of ``model.noise``.
    isotropy, rival_nats, agreement, learnt_from
        As in :class:`cryorbit.alignment.orbit.Alignment`.
    """

    model: Model
    halves: tuple[AverageSums, AverageSums]
    optics: tuple[Signature, ...]
    isotropy: dict[int, float]
    rival_nats: float
    agreement: float
    learnt_from: int

    def for_groups(self, groups: OpticsGroups) -> AverageMemory:
        """The same with the noise of other optics groups: of those with the same optics, else of all."""
        noise = self.model.noise
        rows = []
        for signature in signatures(groups):
            same = [number for number, known in enumerate(self.optics) if known == signature]
            rows.append(noise[same].mean(dim=0) if same else noise.mean(dim=0))
        return replace(self, model=replace(self.model, noise=torch.stack(rows)), optics=signatures(groups))

    def as_plain(self) -> dict[str, Any]:
        """Tensors and numbers, for a file; :func:`from_plain` reads them."""
        template, geometry = self.model.template, self.model.geometry
        return {
            "template": {name: getattr(template, name).cpu() for name in ("harmonics", "total", "limit")},
            "limit": geometry.limit.cpu(),
            "noise": self.model.noise.cpu(),
            "shift_spread_px": self.model.shift_spread_px,
            "isotropy_order": self.model.isotropy_order,
            "halves": [
                {"numerator": half.numerator.cpu(), "power": half.power.cpu(), "particles": half.particles}
                for half in self.halves
            ],
            "optics": [list(signature) for signature in self.optics],
            "isotropy": self.isotropy,
            "rival_nats": self.rival_nats,
            "agreement": self.agreement,
            "learnt_from": self.learnt_from,
            "box_size": template.box_size,
        }


def signatures(groups: OpticsGroups) -> tuple[Signature, ...]:
    """Settings of each optics group that its transfer function depends on."""
    return tuple(
        (optics.voltage_kV, optics.cs_mm, optics.amplitude_contrast, phase)
        for optics, phase in zip(groups.optics, groups.phase_shift_deg, strict=True)
    )


def from_plain(plain: dict[str, Any], geometry: Geometry) -> AverageMemory:
    """What :meth:`AverageMemory.as_plain` gave, on the device of a geometry with the same box and rings.

    Raises
    ------
    ValueError
        If the geometry has another box, other rings or other orders.
    """
    device = geometry.limit.device

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    if plain["box_size"] != geometry.grid.box_size or plain["limit"].shape != geometry.limit.shape:
        raise ValueError(f"an average of boxes of {plain['box_size']} px, not {geometry.grid.box_size}")
    own = replace(geometry, limit=moved(plain["limit"]))
    template = Template(**{name: moved(value) for name, value in plain["template"].items()}, box_size=plain["box_size"])
    halves = [
        AverageSums(moved(half["numerator"]), moved(half["power"]), float(half["particles"]))
        for half in plain["halves"]
    ]
    model = Model(own, template, moved(plain["noise"]), float(plain["shift_spread_px"]), int(plain["isotropy_order"]))
    return AverageMemory(
        model=model,
        halves=(halves[0], halves[1]),
        optics=tuple(tuple(map(float, signature)) for signature in plain["optics"]),
        isotropy={int(n): float(nats) for n, nats in plain["isotropy"].items()},
        rival_nats=float(plain["rival_nats"]),
        agreement=float(plain["agreement"]),
        learnt_from=int(plain["learnt_from"]),
    )
