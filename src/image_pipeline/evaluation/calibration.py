"""Bins of confidence, and the calibration error.

Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
"""

import numpy as np


def confidence_bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each confidence, int64 `[N]`: of so many equally wide ones of [0, 1].

    A bin includes its upper edge.
    """
    found: np.ndarray = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return found


def calibration_error(gaps: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the expected calibration error: the gap of each bin, weighted by its images.

    Args:
        gaps: the number of right predictions minus the sum of confidences, `[..., bins]`.
        images: the number of images in all bins, `[...]`.
    """
    error: np.ndarray = np.abs(gaps).sum(axis=-1) / images
    return error
