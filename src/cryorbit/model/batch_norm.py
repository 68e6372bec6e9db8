"""Batch norm over the whole batch, also where several processes have a share of it each."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` whose statistics are those of all processes; torch's own does so on GPUs only.

    References
    ----------
    Ioffe & Szegedy 2015, "Batch normalization".
    """

    def forward(self, images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Images of mean 0 and variance 1 in each channel, then scaled and moved as learnt."""
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(images)
        values = images.float()
        own = values.new_full((1,), values.numel() / values.shape[1])
        sums = _over_processes(torch.cat([values.sum(dim=(0, 2, 3)), own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]
        # In two steps, for the difference of two large numbers would lose digits.
        variance = _over_processes(centred.square().sum(dim=(0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(images.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


class _OverProcesses(torch.autograd.Function):
    """Sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:  # noqa: ARG004 - as torch calls it
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


def _over_processes(values: Tensor) -> Tensor:
    summed: Tensor = _OverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return summed
