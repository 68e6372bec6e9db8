"""Processes that train one network together: each works on a share of every batch, and all end with the same weights.

``torchrun`` starts them. The first one, the *lead*, runs the whole job; the others wait until it comes to the training,
and are told of it then. Random numbers are drawn for a whole batch by every process, which takes its share of them: so
what is learnt does not depend on how many there are.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cryorbit.errors import ConfigurationError
from cryorbit.machine import STARTED_BY_TORCHRUN, allowed_threads
from cryorbit.threads import torch_threads

# However long the lead takes for what comes before a training.
PATIENCE = timedelta(days=30)

Values = TypeVar("Values", bound=Any)


@dataclass(frozen=True)
class Share:
    """Which part of a batch a process works on.

    Attributes
    ----------
    total
        Images of the batch.
    first, every
        Its own are these: ``first``, ``first + every`` and so on.
    """

    total: int
    first: int = 0
    every: int = 1

    @property
    def count(self) -> int:
        """How many images are its own."""
        return len(range(self.first, self.total, self.every))

    @property
    def factor(self) -> float:
        """What a mean over its own images counts, so that the mean over all processes is that over the batch."""
        return self.count * self.every / self.total

    def of(self, values: Values) -> Values:
        """Its part of an array or tensor of the whole batch."""
        part: Values = values[self.first :: self.every]
        return part

    def normal_like(self, values: Tensor) -> Tensor:
        """Its part of standard normal numbers for the batch, of the shape of its own values."""
        whole = torch.randn(self.total, *values.shape[1:], dtype=values.dtype, device=values.device)
        return self.of(whole)


@dataclass(frozen=True)
class Team:
    """The processes of a training; one alone by default.

    Attributes
    ----------
    rank
        Number of this process; the lead is 0.
    size, local_size
        How many there are, and on this machine.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @classmethod
    def of_environment(cls) -> Team:
        """As ``torchrun`` says; this process alone where it was started otherwise."""
        if STARTED_BY_TORCHRUN not in os.environ:
            return cls()
        return cls(*(int(os.environ.get(name, usual)) for name, usual in _VARIABLES))

    @staticmethod
    def check() -> None:
        """Refuse what cannot work before anything is begun.

        Raises
        ------
        ConfigurationError
            If ``torchrun`` has started more processes on one machine than on another.
        """
        team, machines = Team.of_environment(), int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        if team.local_size * machines != team.size:
            raise ConfigurationError(
                f"torchrun has started {team.size} processes on {machines} machines, of which {team.local_size} here; "
                "expected equal numbers: give each machine the same --nproc-per-node."
            )

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def share(self, total: int) -> Share:
        """Of a batch; of one that is too small for all to have some, each takes the whole."""
        return Share(total) if total < self.size else Share(total, self.rank, self.size)

    def cores_shared(self) -> AbstractContextManager[None]:
        """Processes on one machine share its cores, so long as all of them work."""
        return torch_threads(max(1, allowed_threads() // self.local_size)) if self.size > 1 else nullcontext()

    def connect(self) -> None:
        """Get in touch with the others, where there are any."""
        if self.size == 1 or dist.is_initialized():
            return
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)

    def told(self, what: Any = None) -> Any:
        """What the lead says to all."""
        said = [what]
        dist.broadcast_object_list(said, src=0)
        return said[0]


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", "1"))
