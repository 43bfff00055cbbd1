"""Frames and ruled lines, which are not strokes."""

import numpy as np
from scipy import ndimage

WITH_DIAGONALS = np.ones((3, 3), bool)  # a pixel and its eight neighbours


def remove_lines(mask: np.ndarray, thickest: int | None = None) -> np.ndarray:
    """Return a mask without frames and ruled lines: those that span the image or run along an edge.

    Pixels where a stroke crosses a line are kept. A single line may be a stroke of a digit that
    fills the image; `_is_stroke` decides.

    Args:
        mask: bool `[H, W]`.
        thickest: pixels; thicker lines are kept.
    """
    horizontal = _horizontal_lines(mask, thickest)
    lines = [*horizontal, *(line.T for line in _horizontal_lines(mask.T, thickest))]
    if not lines:
        return mask
    rest: np.ndarray = mask & ~np.logical_or.reduce(lines)
    if len(lines) > 1:
        return rest
    return mask if _is_stroke(lines[0], rest, 1 if horizontal else 0) else rest


def _horizontal_lines(mask: np.ndarray, thickest: int | None) -> list[np.ndarray]:
    """Return each horizontal line's mask, bool `[H, W]`, without the pixels where strokes cross."""
    height, width = mask.shape
    closed = ndimage.grey_closing(mask.view(np.uint8), (1, max(3, width // 16)))
    runs = ndimage.grey_opening(closed, (1, max(3, width // 8)))
    labels, count = ndimage.label(runs, WITH_DIAGONALS)
    lines = []
    lengths = [box[1].stop - box[1].start for box in ndimage.find_objects(labels)]
    for label in (label for label in range(1, count + 1) if 2 * lengths[label - 1] > width):
        line = labels == label
        rows, columns = np.flatnonzero(line.any(1)), np.flatnonzero(line.any(0))
        gap = max(int(columns[0]), width - 1 - int(columns[-1]))  # to the farther side
        spans = gap <= 1 + width // 50 and 10 * len(columns) >= 9 * width
        at_edge = min(int(rows[-1]), height - 1 - int(rows[0])) < max(1, height // 12)
        if spans or (at_edge and 10 * len(columns) >= 6 * width):
            thickness = int(np.median(line.sum(0)[columns]))
            if thickest is not None and thickness > thickest:
                continue
            reach = 2 * (thickness + 2) + 1
            around = ndimage.binary_dilation(line, np.ones((reach, 1), bool)) & mask
            crossed = around.sum(0) > thickness + 2 + thickness // 2
            lines.append(ndimage.binary_dilation(line, np.ones((3, 1), bool)) & mask & ~crossed)
    return lines


def _is_stroke(line: np.ndarray, rest: np.ndarray, axis: int) -> bool:
    """Tell whether the only line, along `axis`, is a stroke of a digit that fills the image.

    It is if there is nothing else; or if it touches the largest other component, and goes on beyond
    that on one side at most, or both span the image across the line. A ruled line runs on beyond a
    digit on both sides.
    """
    if not rest.any() or not line.any():  # such as if strokes cross all of it
        return True
    labels, _ = ndimage.label(rest, WITH_DIAGONALS)
    largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    box = ndimage.find_objects(labels)[largest - 1]
    touching = ndimage.binary_dilation(line, WITH_DIAGONALS)[box] & (labels[box] == largest)
    near = 1 + line.shape[axis] // 12
    along = np.flatnonzero(line.any(1 - axis))
    first, last = max(near, int(along[0])), min(line.shape[axis] - 1 - near, int(along[-1]))
    ends = box[axis].start <= first or box[axis].stop > last
    extent = np.flatnonzero((rest | line).any(axis))
    fills = 20 * (int(np.ptp(extent)) + 1) >= 19 * line.shape[1 - axis]
    return bool(touching.any()) and (ends or fills)
