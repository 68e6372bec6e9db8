"""The space in which a search of hyper-parameters looks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from cryorbit.config import RunConfig, make_config, merge
from cryorbit.errors import ConfigurationError
from cryorbit.preprocessing.dataset import network_box_size

# Where each parameter stands in a configuration.
SECTIONS = {
    "learning_rate": "training", "latent_dim": "model", "n_blocks": "model", "hidden_layers": "model",
    "lambda_reg": "model", "lambda_GAN": "model",
}  # fmt: skip
# Ranges of the paper, section 3.2.
LEARNING_RATE = (1e-4, 1e-2)
LATENT_DIM = (3, 4)
LAMBDA = (1e-3, 4.0)
PAPER_BLOCKS = (5, 6)
# With fewer pixels left at the bottom there is nothing to convolve.
SMALLEST_BOTTOM = 2

Parameters = dict[str, float | int]


@dataclass(frozen=True)
class SearchSpace:
    """Flat space of hyper-parameters; ``None`` keeps a parameter as the configuration has it.

    Attributes
    ----------
    learning_rate, lambda_reg, lambda_GAN
        Lowest and highest value, searched uniformly in the logarithm.
    latent_dim, n_blocks, hidden_layers
        The values to choose from. Blocks are of the convolutional architecture, layers of the projection.

    Raises
    ------
    ConfigurationError
        If a range or a choice is empty, or everything is kept.
    """

    learning_rate: tuple[float, float] | None = LEARNING_RATE
    latent_dim: tuple[int, ...] | None = LATENT_DIM
    n_blocks: tuple[int, ...] | None = PAPER_BLOCKS
    hidden_layers: tuple[int, ...] | None = None
    lambda_reg: tuple[float, float] | None = LAMBDA
    lambda_GAN: tuple[float, float] | None = LAMBDA

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {limits}; expected two numbers, 0 < low < high"
            for name, limits in self.ranges.items()
            if len(limits) != 2 or not 0 < limits[0] < limits[1]
        ]
        problems += [f"{name} has no values to choose from" for name, values in self.choices.items() if not values]
        if not (self.ranges or self.choices):
            problems.append("there is nothing to search")
        if problems:
            raise ConfigurationError(f"Search space: {'; '.join(problems)}.")

    @classmethod
    def around(cls, config: RunConfig, image_box_size: int) -> SearchSpace:
        """The paper's ranges, as far as images and network allow, widened to hold the configuration itself.

        Parameters
        ----------
        config
            A weight that is 0 in it stays 0; layers, or blocks, are searched one up and one down (5 and 6 blocks
            with the preset ``paper``), where that leaves the network the same images.
        image_box_size
            Width of the particle images in pixels.
        """
        model = config.model
        blocks = PAPER_BLOCKS if config.preset == "paper" else range(model.n_blocks - 1, model.n_blocks + 2)
        layers = range(max(model.hidden_layers - 1, 1), min(model.hidden_layers + 1, 8) + 1)
        projects = model.architecture == "projection"
        fitting = {model.n_blocks, *(n for n in blocks if _fits(config, image_box_size, n))}
        return cls(
            learning_rate=_widened(LEARNING_RATE, config.training.learning_rate),
            latent_dim=tuple(sorted({*LATENT_DIM, model.latent_dim})),
            n_blocks=None if projects else tuple(sorted(fitting)),
            hidden_layers=tuple(layers) if projects else None,
            lambda_reg=_widened(LAMBDA, model.lambda_reg),
            lambda_GAN=_widened(LAMBDA, model.lambda_GAN),
        )

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Parameters that are searched uniformly in their logarithm."""
        return {
            name: getattr(self, name) for name in ("learning_rate", "lambda_reg", "lambda_GAN") if getattr(self, name)
        }

    @property
    def choices(self) -> dict[str, tuple[int, ...]]:
        """Parameters of which one of several values is chosen."""
        return {
            name: getattr(self, name)
            for name in ("latent_dim", "n_blocks", "hidden_layers")
            if getattr(self, name) is not None
        }

    def parameters(self, config: RunConfig) -> Parameters:
        """What a configuration has for the parameters that are searched."""
        return {
            field.name: getattr(getattr(config, SECTIONS[field.name]), field.name)
            for field in fields(self)
            if getattr(self, field.name) is not None
        }

    def applied(self, config: RunConfig, parameters: Parameters) -> RunConfig:
        """A configuration with some parameters changed."""
        changes: dict[str, Any] = {}
        for name, value in parameters.items():
            changes = merge(changes, {SECTIONS[name]: {name: value}})
        return make_config(config.preset, merge(config.model_dump(mode="json"), changes))

    def check(self, config: RunConfig, image_box_size: int) -> None:
        """Refuse a space that does not hold the configuration, or a number of blocks that changes the images.

        Raises
        ------
        ConfigurationError
            With everything that is wrong.
        """
        ours = self.parameters(config)
        problems = [
            f"{name} = {ours[name]:g} of the configuration, with which the trials are compared, is not in it"
            for name in ours
            if (name in self.choices and ours[name] not in self.choices[name])
            or (name in self.ranges and not self.ranges[name][0] <= ours[name] <= self.ranges[name][1])
        ]
        problems += [
            f"n_blocks = {blocks} cannot halve images of this box that often"
            for blocks in self.choices.get("n_blocks", ())
            if blocks != config.model.n_blocks and not _fits(config, image_box_size, blocks)
        ]
        if config.model.lambda_cone > 0 and min(self.choices.get("latent_dim", (3,))) < 3:
            problems.append("latent_dim must be 3 or more for the cone term")
        if problems:
            raise ConfigurationError(f"Search space: {'; '.join(problems)}.")

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


def _widened(limits: tuple[float, float], value: float) -> tuple[float, float] | None:
    return (min(limits[0], value), max(limits[1], value)) if value > 0 else None


def _fits(config: RunConfig, image_box_size: int, n_blocks: int) -> bool:
    """Whether a network of so many blocks sees the same images as the configured one."""
    wanted = config.preprocessing.box_size
    ours, theirs = (2 ** max(blocks, config.model.discriminator_blocks) for blocks in (config.model.n_blocks, n_blocks))
    box_size = network_box_size(image_box_size, wanted, ours)
    if not 1 <= n_blocks <= 8 or wanted % theirs or min(image_box_size, wanted) < theirs:
        return False
    return network_box_size(image_box_size, wanted, theirs) == box_size and box_size >> n_blocks >= SMALLEST_BOTTOM
