"""How far the fine structure of two images agrees, once one is shifted and scaled onto the other.

Elementwise arithmetic and NumPy's sums in float32, which give the same bits everywhere.
"""

import numpy as np

MAX_SCALE = 0.25  # either way
MAX_SHIFT = 0.2  # of the size
SEARCHED = 2  # pixels, either way, at half the size
COARSE_STEPS, FINE_STEPS = 6, 3
MIN_COARSE = 0.5  # agreement at half the size; below, it can hardly be high at full size


def agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation of the fine structure of aligned images, float32 `[P]`.

    The alignment is that of Lucas and Kanade (1981), in the inverse compositional form of Baker and
    Matthews (2004), of shift and scale in x and y, first at half the size. What is compared is each
    pixel's difference from the mean of the 5 x 5 around it, without the border.

    Args:
        first: uint8 `[P, S, S]`; S is even.
        second: likewise.
    """
    a, b = first.astype(np.float32), second.astype(np.float32)
    small_a, small_b = (_detail(_halved(image), 2) for image in (a, b))
    motion = _search(small_a, small_b)
    motion = _aligned(small_a, small_b, motion, COARSE_STEPS)
    found = _correlation(_inside(small_a), _inside(_warped(small_b, motion)))
    kept = np.flatnonzero(found >= MIN_COARSE)
    if len(kept):
        a, b, motion = a[kept], b[kept], motion[kept] * np.array([2, 2, 1, 1], np.float32)
        motion = _aligned(_smoothed(_detail(a, 4)), _smoothed(_detail(b, 4)), motion, FINE_STEPS)
        found[kept] = _correlation(_inside(_detail(a, 2)), _inside(_warped(_detail(b, 2), motion)))
    found[np.setdiff1d(np.arange(len(found)), kept)] = 0
    return found


def _halved(images: np.ndarray) -> np.ndarray:
    pairs = images[:, ::2] + images[:, 1::2]
    halved: np.ndarray = (pairs[:, :, ::2] + pairs[:, :, 1::2]) * np.float32(0.25)
    return halved


def _detail(images: np.ndarray, radius: int) -> np.ndarray:
    """Return each pixel's difference from the mean of the square around it."""
    side, size = images.shape[1], 2 * radius + 1
    padded = np.pad(images, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    rows: np.ndarray = np.zeros((), np.float32)
    total: np.ndarray = np.zeros((), np.float32)
    for start in range(size):
        rows = rows + padded[:, start : start + side]
    for start in range(size):
        total = total + rows[:, :, start : start + side]
    detail: np.ndarray = images - total * np.float32(1 / size**2)
    return detail


def _smoothed(images: np.ndarray) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    smoothed: np.ndarray = rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return smoothed


def _inside(images: np.ndarray) -> np.ndarray:
    """Return images without an eighth at each edge, as rows `[P, pixels]`."""
    margin = images.shape[1] // 8
    return images[:, margin:-margin, margin:-margin].reshape(len(images), -1)


def _normalised(rows: np.ndarray) -> np.ndarray:
    """Return rows with mean 0 and length 1; nearly constant ones are nearly 0."""
    centred = rows - rows.sum(axis=1, keepdims=True) / np.float32(rows.shape[1])
    squares = (centred * centred).sum(axis=1, keepdims=True)
    normalised: np.ndarray = centred / np.sqrt(squares + np.float32(0.01 * rows.shape[1]))
    return normalised


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    correlation: np.ndarray = (_normalised(first) * _normalised(second)).sum(axis=1)
    return correlation


def _search(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the best shift by whole pixels, as a motion `[P, 4]`: shift in x and y, scale by 0."""
    margin, side = a.shape[1] // 8, a.shape[1]
    inside = _normalised(_inside(a))
    best, motion = np.full(len(a), -2, np.float32), np.zeros((len(a), 4), np.float32)
    for y in range(-SEARCHED, SEARCHED + 1):
        for x in range(-SEARCHED, SEARCHED + 1):
            part = b[:, margin + y : side - margin + y, margin + x : side - margin + x]
            found = (inside * _normalised(part.reshape(len(b), -1))).sum(axis=1)
            better = found > best
            best[better] = found[better]
            motion[better, :2] = x, y
    return motion


def _warped(images: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Return images `[P, S, S]` moved by `[P, 4]`: bilinear, in y and then in x."""
    side = images.shape[1]
    centre = np.float32((side - 1) / 2)
    steps = np.arange(side, dtype=np.float32) - centre
    for axis in (1, 2):
        shift, scale = motion[:, 2 - axis, None], motion[:, 4 - axis, None]
        place = np.clip(centre + (1 + scale) * steps + shift, 0, np.float32(side - 1.001))
        left = place.astype(np.int64)
        part = place - left.astype(np.float32)
        if axis == 1:
            left, part = left[:, :, None], part[:, :, None]
        else:
            left, part = left[:, None, :], part[:, None, :]
        before = np.take_along_axis(images, left, axis)
        images = before + (np.take_along_axis(images, left + 1, axis) - before) * part
    return images


def _aligned(a: np.ndarray, b: np.ndarray, motion: np.ndarray, steps: int) -> np.ndarray:
    """Return the best of the motions that some steps from this one lead to."""
    side = a.shape[1]
    template = _normalised(_inside(a))
    length = np.sqrt((_inside(a) ** 2).sum(axis=1) + np.float32(1))[:, None, None]
    gradient_y, gradient_x = np.gradient(a / length, axis=(1, 2))
    place = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    slopes = [gradient_x, gradient_y, gradient_x * place, gradient_y * place[:, None]]
    rows = [_inside(slope) for slope in slopes]
    normal = [[(one * other).sum(axis=1) for other in rows] for one in rows]
    for number in range(4):
        normal[number][number] = normal[number][number] * np.float32(1.01) + np.float32(1e-6)
    best, chosen = np.full(len(a), -2, np.float32), motion
    for step in range(steps + 1):
        moved = _normalised(_inside(_warped(b, motion)))
        found = (template * moved).sum(axis=1)
        better = (found > best)[:, None]
        best, chosen = np.maximum(found, best), np.where(better, motion, chosen)
        if step == steps:
            break
        right = [(row * (moved - template)).sum(axis=1) for row in rows]
        motion = _composed(motion, _solved(normal, right), side)
    return chosen


def _solved(normal: list[list[np.ndarray]], right: list[np.ndarray]) -> list[np.ndarray]:
    """Solve positive definite systems of four equations by elimination, all at once."""
    matrix, values = [list(row) for row in normal], list(right)
    for pivot in range(4):
        for row in range(pivot + 1, 4):
            factor = matrix[row][pivot] / matrix[pivot][pivot]
            for column in range(pivot, 4):
                matrix[row][column] = matrix[row][column] - factor * matrix[pivot][column]
            values[row] = values[row] - factor * values[pivot]
    for row in reversed(range(4)):
        for column in range(row + 1, 4):
            values[row] = values[row] - matrix[row][column] * values[column]
        values[row] = values[row] / matrix[row][row]
    return values


def _composed(motion: np.ndarray, step: list[np.ndarray], side: int) -> np.ndarray:
    """Return a motion after the inverse of a step, within bounds."""
    result = np.empty_like(motion)
    for shift in range(2):
        scale = np.clip(step[shift + 2], np.float32(-0.2), np.float32(0.2))
        size = (1 + motion[:, shift + 2]) / (1 + scale)
        result[:, shift] = motion[:, shift] - size * step[shift]
        result[:, shift + 2] = size - 1
    result[:, :2] = np.clip(result[:, :2], -MAX_SHIFT * side, MAX_SHIFT * side)
    result[:, 2:] = np.clip(result[:, 2:], -MAX_SCALE, MAX_SCALE)
    return result
