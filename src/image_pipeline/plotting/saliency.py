"""Where a network looked: which parts of an image speak for a class.

HiResCAM (Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
convolutional neural networks", 2020) on the last layer whose output is still an image. It is
Grad-CAM (Selvaraju et al., 2017) without the averaging of gradients over the image, which shows
places that the network did not use. Where global average pooling follows, both are the same.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from image_pipeline.modeling.inference import normalise
from image_pipeline.tensors.tensor_files import DatasetInfo


def saliency_map(
    model: nn.Module, image: np.ndarray, label: int, info: DatasetInfo
) -> tuple[np.ndarray, str | None]:
    """Return how much each pixel speaks for a class.

    Args:
        model: in evaluation mode.
        image: uint8 `[C, H, W]`.
        label: of the class.
        info: of the data set the model was trained on.

    Returns:
        float32 `[H, W]` from 0 to 1, the largest, or all 0 where nothing speaks for it; and the
        name of the layer, or None for the input, of a network without such a layer.
    """
    pixels = torch.from_numpy(normalise(image[None], info)).requires_grad_()
    outputs: dict[str | None, Tensor] = {None: pixels}

    def record(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # A layer may run again, on the mirror image: its first output is the one to show.
            spatial = isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1
            if spatial and output.requires_grad:
                outputs.setdefault(name, output)

        return hook

    hooks = [
        layer.register_forward_hook(record(name)) for name, layer in model.named_modules() if name
    ]
    logit = model(pixels.clone())[0, label]  # a layer may change its input in place
    for hook in hooks:
        hook.remove()
    name, values = list(outputs.items())[-1]
    gradients = torch.zeros_like(values)
    if logit.requires_grad:
        (gradients,) = torch.autograd.grad(logit, values, materialize_grads=True)
    evidence = (gradients * values).detach().sum(dim=1, keepdim=True).clamp_min(0)  # [1, 1, h, w]
    size = (image.shape[1], image.shape[2])
    heat = functional.interpolate(evidence, size, mode="bilinear")[0, 0]
    heat /= heat.max().clamp_min(torch.finfo(heat.dtype).tiny)
    return heat.numpy(), name
