"""Where MNIST has a digit in its image: its centre of mass at the centre of 28 x 28 pixels."""

import numpy as np

SIDE = 28  # pixels of an MNIST image
BOX = 20  # pixels of a digit's longer side in it


def centre(digit: np.ndarray) -> np.ndarray:
    """Paste a digit, its centre of mass as close to the centre as the digit fits.

    In integers, so that no sum of floats can round otherwise elsewhere.

    Args:
        digit: uint8 `[h, w]`, at most 28 pixels a side, not all 0.

    Returns:
        uint8 `[28, 28]`.
    """
    total = int(digit.sum(dtype=np.int64))
    corner = []
    for axis, side in enumerate(digit.shape):
        mass = digit.sum(1 - axis, dtype=np.int64)
        moment = int(mass @ (2 * np.arange(side) + 1))  # twice the centre of mass, times the total
        wanted = (SIDE * total - moment + total) // (2 * total)
        corner.append(min(max(wanted, 0), SIDE - side))
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[corner[0] : corner[0] + digit.shape[0], corner[1] : corner[1] + digit.shape[1]] = digit
    return image
