"""Fused optimizer steps of operations that are rounded the same on every processor.

PyTorch's fused kernels add a product in one rounding or in two, which depends on the processor.
These are the formulas of `torch.optim.Adam`, `AdamW` and `SGD` without `fused`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from image_pipeline.numerics.functions import sqrt
from image_pipeline.numerics.registration import Kernel, fall_back

Tensors = Sequence[Tensor]


def _adam(
    name: str,
    weights: Tensors,
    gradients: Tensors,
    averages: Tensors,
    squares: Tensors,
    maxima: Tensors,
    steps: Tensors,
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    **scaling: Any,
) -> Any:
    """Take a step of Adam (Kingma and Ba, 2015); `_fused_adamw_` decays weights by themselves."""
    if any(value is not None for value in scaling.values()):  # of mixed precision, on GPUs
        rates = {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay}
        options = {"eps": eps, "amsgrad": amsgrad, "maximize": maximize}
        lists = weights, gradients, averages, squares, maxima, steps
        return fall_back(name, *lists, **rates, **options, **scaling)
    rate = float(lr)
    for index, (weight, gradient, average, square) in enumerate(
        zip(weights, gradients, averages, squares, strict=True)
    ):
        count = steps[index].item()
        gradient = gradient.neg() if maximize else gradient
        if weight_decay and name.startswith("_fused_adamw_"):
            weight.mul_(1 - rate * weight_decay)
        elif weight_decay:
            gradient = gradient.add(weight, alpha=weight_decay)
        average.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if amsgrad:
            square = torch.maximum(maxima[index], square, out=maxima[index])
        deviation = sqrt(square).div_(math.sqrt(1 - beta2**count)).add_(eps)
        weight.addcdiv_(average, deviation, value=-rate / (1 - beta1**count))
    return None


def _sgd(
    name: str,
    weights: Tensors,
    gradients: Tensors,
    buffers: Tensors,
    *,
    weight_decay: float,
    momentum: float,
    lr: float | Tensor,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    is_first_step: bool,
    **scaling: Any,
) -> Any:
    """Take a step of gradient descent with momentum."""
    if any(value is not None for value in scaling.values()):
        rates = {"weight_decay": weight_decay, "momentum": momentum, "lr": lr}
        options = {"dampening": dampening, "nesterov": nesterov, "maximize": maximize}
        options |= {"is_first_step": is_first_step}
        return fall_back(name, weights, gradients, buffers, **rates, **options, **scaling)
    for index, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        gradient = gradient.neg() if maximize else gradient
        if weight_decay:
            gradient = gradient.add(weight, alpha=weight_decay)
        if momentum:
            buffer = buffers[index]
            if is_first_step:
                buffer.copy_(gradient)
            else:
                buffer.mul_(momentum).add_(gradient, alpha=1 - dampening)
            gradient = gradient.add(buffer, alpha=momentum) if nesterov else buffer
        weight.add_(gradient, alpha=-float(lr))
    return None


KERNELS: dict[str, Kernel] = {
    name: partial(compute, name)
    for compute, operations in (
        (_adam, ("_fused_adam_", "_fused_adamw_")),
        (_sgd, ("_fused_sgd_",)),
    )
    for operation in operations
    for name in (operation, f"{operation}.tensor_lr")
}
