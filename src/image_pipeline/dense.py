"""Dense layers with ReLU between them, forward and backward, as NumPy's matrix products.

By hand, not by torch's autograd: a batch is learnt from in many small pieces, for which the
recording and the calls of a graph made an epoch two fifths longer. ReLU is torch's: its kernels are
pinned, see `numerics`.
"""

from collections.abc import Sequence

import numpy as np
import torch

Layer = tuple[np.ndarray, np.ndarray]  # weights [after, before] and biases [after]


def forward(layers: Sequence[Layer], inputs: np.ndarray) -> list[np.ndarray]:
    """Compute all activations.

    Args:
        layers: float32.
        inputs: float32 `[B, values]`.

    Returns:
        What goes into each layer, float32 `[B, before]`, and after it what comes out of the last.
    """
    activations = [inputs]
    for number, (weights, biases) in enumerate(layers, 1):
        outputs = activations[-1] @ weights.T
        outputs += biases
        if number < len(layers):
            torch.relu_(torch.from_numpy(outputs))
        activations.append(outputs)
    return activations


def backward(
    layers: Sequence[Layer],
    activations: Sequence[np.ndarray],
    gradient: np.ndarray,
    out: Sequence[Layer],
    *,
    of_inputs: bool,
) -> np.ndarray | None:
    """Compute the gradient of every weight from that of the last layer's outputs.

    Args:
        layers: float32.
        activations: as `forward` returned them.
        gradient: float32 `[B, after]`.
        out: where the gradients of weights and biases go, of the shapes of `layers`.
        of_inputs: whether that of the inputs is wanted, too.

    Returns:
        The gradient of the inputs, float32 `[B, values]`, or None.
    """
    ones = np.ones(len(gradient), gradient.dtype)
    for depth in reversed(range(len(layers))):
        np.matmul(gradient.T, activations[depth], out=out[depth][0])
        np.matmul(ones, gradient, out=out[depth][1])
        if depth or of_inputs:
            gradient = gradient @ layers[depth][0]
        if depth:
            gradient = behind_relu(gradient, activations[depth])
    return gradient if of_inputs else None


def behind_relu(gradient: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return the gradient of what ReLU turned into `outputs`, both of one shape."""
    masked: np.ndarray = torch.ops.aten.threshold_backward(
        torch.from_numpy(gradient), torch.from_numpy(outputs), 0
    ).numpy()
    return masked
