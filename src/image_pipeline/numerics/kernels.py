"""CPU kernels of PyTorch operations that are bit-identical on every processor.

They are registered under PyTorch's own names, so ordinary networks use them unchanged. Only leaf
operations are replaced, those with a derivative in autograd that call no other operation: replacing
composite ones such as `linear` or `dropout` would remove their derivatives.

Arguments that these kernels do not support (integers, functions of complex numbers, shapes that do
not match) go to PyTorch's own kernel, which computes them or raises its own error.
"""

from image_pipeline.numerics import convolutions, draws, functions, optimizers, products, sums
from image_pipeline.numerics.registration import Kernel, register

PRODUCTS = products.KERNELS
ALL: dict[str, Kernel] = {
    **PRODUCTS,
    **convolutions.KERNELS,
    **functions.KERNELS,
    **sums.KERNELS,
    **draws.KERNELS,
    **optimizers.KERNELS,
}


def install(*, products_only: bool = False) -> None:
    """Register the kernels for the rest of this process; calling it again changes nothing.

    Args:
        products_only: replace the matrix products only.
    """
    register(PRODUCTS if products_only else ALL)
