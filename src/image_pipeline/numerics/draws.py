"""Random draws, all derived from uniform ones, which are the same on every processor.

PyTorch takes Bernoulli and exponential draws from MKL on Intel's processors, if built with it, and
from its own generator on others (DistributionKernels.cpp), which gives different numbers for the
same seed. Its normal draws depend on the vector instructions.
"""

import math
from typing import Any

import torch
from torch import Tensor

from image_pipeline.numerics.functions import log, sqrt
from image_pipeline.numerics.registration import DOUBLE, FLOAT, Kernel, fall_back


def _uniform(values: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return draws from [0, 1): in place for float32 and float64, else in a new float32 tensor."""
    if values.dtype is not FLOAT and values.dtype is not DOUBLE:
        values = torch.empty_like(values, dtype=FLOAT)
    return values.uniform_(generator=generator)


def bernoulli_(values: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> Any:
    """Fill with draws that are 1 with probability `p`, otherwise 0."""
    if not 0 <= p <= 1:
        return fall_back("bernoulli_.float", values, p, generator=generator)
    draws = _uniform(values, generator).lt_(p)
    return values if draws is values else values.copy_(draws)


def exponential_(
    values: Tensor, rate: float = 1.0, *, generator: torch.Generator | None = None
) -> Any:
    """Fill with draws from the exponential distribution."""
    if not rate > 0 or not values.dtype.is_floating_point:
        return fall_back("exponential_", values, rate, generator=generator)
    draws = _uniform(values, generator)
    # Never 0: the distribution excludes it, and its logarithm is infinite.
    smallest = torch.finfo(draws.dtype).eps / 2
    draws.neg_().log1p_().neg_().clamp_min_(smallest).div_(rate)
    return values if draws is values else values.copy_(draws)


def normal_(
    values: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: torch.Generator | None = None
) -> Any:
    """Fill with draws from the normal distribution, by the method of Box and Muller (1958)."""
    if not std >= 0 or not values.dtype.is_floating_point:
        return fall_back("normal_", values, mean, std, generator=generator)
    count = values.numel()
    draws = torch.empty(2, -(-count // 2), dtype=DOUBLE).uniform_(generator=generator)
    radius = sqrt(log(1 - draws[0]).mul_(-2))
    points = torch.view_as_real(torch.polar(radius, draws[1].mul_(2 * math.pi)))
    return values.copy_(points.flatten()[:count].mul_(std).add_(mean).view(values.shape))


KERNELS: dict[str, Kernel] = {
    "bernoulli_.float": bernoulli_,
    "exponential_": exponential_,
    "normal_": normal_,
}
