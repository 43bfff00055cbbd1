"""The losses to choose from by `train.loss.name`.

A loss takes logits float32 `[B, classes]`, labels int64 `[B]` and keyword options, the block
`train.loss.<name>` of params.yaml, and returns the sum over the images, not the mean: a batch's
gradients are summed over its micro-batches. To add one, write a function and a line in `LOSSES`.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> Tensor:
    """Cross-entropy, in nats.

    Args:
        logits: float32 `[B, classes]`.
        labels: int64 `[B]`.
        label_smoothing: share of each label that is spread over all classes.
    """
    return functional.cross_entropy(
        logits, labels, label_smoothing=label_smoothing, reduction="sum"
    )


def focal(
    logits: Tensor, labels: Tensor, *, gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
) -> Tensor:
    """Cross-entropy, each image weighted by (1 - p) ** gamma, p the probability of its label.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (2017), without their alpha.

    Args:
        logits: float32 `[B, classes]`.
        labels: int64 `[B]`.
        gamma: how much less images count that are classified well; 0 for cross-entropy.
    """
    log_p = functional.log_softmax(logits, dim=1).gather(1, labels[:, None])
    # Never 0, where the derivative of a power below 1 is infinite.
    rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -(rest.pow(gamma) * log_p).sum()


LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "focal": focal}
