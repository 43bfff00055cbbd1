"""Random affine and elastic change of whole batches of images, as one sparse matrix product.

Bilinear sampling is linear in the pixels: an output pixel is the weighted sum of four input pixels.
One draw of rotation, scale, shear, translation and elastic displacement is shared by a small group
of images, which makes it a sparse matrix (four values per row) times a dense one (a column per
image). The groups of a block are strewn over its batches, so a batch still sees many draws.

Elastic displacement: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural
Networks Applied to Visual Document Analysis" (2003), with a random B-spline for smoothed noise.

Why not `torch.nn.functional.grid_sample`: it computes the four weights for every image anew, takes
several times as long, and its masked gathers cannot be run under QEMU, where the promise of the
same bits is checked. SciPy's product is compiled for the x86-64 baseline and adds in a fixed order.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from image_pipeline.augmenting.params import AugmentationParams

BENDING = ("rotation", "scale", "shear", "translation", "elastic")
CONTROL_POINTS = 7  # of the elastic field, each way: one bend or so per quarter of the image
TAPS = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column offsets of the four neighbours


def draw_affines(
    params: AugmentationParams, count: int, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Draw `count` maps from output to input pixels.

    Args:
        params: the largest change of each kind.
        count: how many maps.
        size: height and width in pixels.
        rng: advanced by six numbers per map.

    Returns:
        float64 `[count, 2, 3]`; `(row, column) = map @ (row, column, 1)`, measured from the centre.
    """
    height, width = size
    draws = rng.uniform(-1, 1, (count, 6)).tolist()
    maps = np.empty((count, 2, 3))
    for index, (turn, tall, wide, lean, down, right) in enumerate(draws):
        # math, not numpy: numpy's sine depends on the processor's vector unit.
        angle = math.radians(params.rotation * turn)
        cosine, sine = math.cos(angle), math.sin(angle)
        tangent = math.tan(math.radians(params.shear * lean))
        rows, columns = 1 / (1 + params.scale * tall), 1 / (1 + params.scale * wide)
        maps[index] = (
            (
                rows * (cosine + tangent * sine),
                rows * sine,
                params.translation * down * height,
            ),
            (
                columns * (tangent * cosine - sine),
                columns * cosine,
                params.translation * right * width,
            ),
        )
    return maps


def draw_displacements(
    params: AugmentationParams, count: int, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray | None:
    """Draw `count` smooth fields of displacements: random cubic B-splines.

    Args:
        params: the largest displacement.
        count: how many fields.
        size: height and width in pixels.
        rng: advanced by two numbers per control point and field.

    Returns:
        float32 `[count, 2, H*W]`, in pixels, down and to the right; None without elastic change.
    """
    if not params.elastic:
        return None
    control = rng.uniform(-1, 1, (count, 2, CONTROL_POINTS, CONTROL_POINTS)).astype(np.float32)
    control *= np.array([params.elastic * side for side in size], np.float32)[:, None, None]
    down, right = (_spline_weights(side) for side in size)
    # Sums in a fixed order, not matrix products: those depend on the processor where not pinned.
    height, width = size
    rows = np.zeros((height, count, 2, CONTROL_POINTS), np.float32)
    fields = np.zeros((count, 2, height, width), np.float32)
    for i in range(CONTROL_POINTS):
        rows += down[:, i, None, None, None] * control[:, :, i]
    for j in range(CONTROL_POINTS):
        fields += rows[:, :, :, j].transpose(1, 2, 0)[..., None] * right[:, j]
    return fields.reshape(count, 2, height * width)


def _spline_weights(side: int) -> np.ndarray:
    """Weights float32 `[side, CONTROL_POINTS]` of a uniform cubic B-spline at each pixel."""
    position = (np.arange(side) + 0.5) / side * (CONTROL_POINTS - 3)
    first = np.floor(position).astype(np.int64)
    t = position - first
    u = 1 - t
    # No powers: numpy's, too, depend on the processor.
    pieces = (u * u * u, 4 - 6 * t * t + 3 * t * t * t, 4 - 6 * u * u + 3 * u * u * u, t * t * t)
    weights = np.zeros((side, CONTROL_POINTS), np.float32)
    for offset, piece in enumerate(pieces):
        weights[np.arange(side), first + offset] = piece / 6
    return weights


def sampling_taps(
    maps: np.ndarray, size: tuple[int, int], displacements: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear sampling by `maps` `[G, 2, 3]` as four weighted input pixels per output pixel.

    Args:
        maps: as `draw_affines` returns them.
        size: height and width in pixels.
        displacements: as `draw_displacements` returns them.

    Returns:
        The input pixels int32 `[G, H*W, 4]` and their weights float32 `[G, H*W, 4]`; the weight of
        what lies outside the image is 0.
    """
    height, width = size
    row, column = np.divmod(np.arange(height * width), width)
    row = (row - (height - 1) / 2).astype(np.float32)
    column = (column - (width - 1) / 2).astype(np.float32)
    factors = maps.astype(np.float32)[:, :, :, np.newaxis]  # [G, 2, 3, 1]
    source = factors[:, :, 0] * row + factors[:, :, 1] * column + factors[:, :, 2]  # [G, 2, H*W]
    if displacements is not None:
        source += displacements
    source_row = source[:, 0] + np.float32((height - 1) / 2)
    source_column = source[:, 1] + np.float32((width - 1) / 2)
    top, left = np.floor(source_row), np.floor(source_column)
    below, beside = source_row - top, source_column - left  # the share of the far neighbour

    pixels = np.empty((len(maps), height * width, len(TAPS)), np.int32)
    weights = np.empty((len(maps), height * width, len(TAPS)), np.float32)
    top, left = top.astype(np.int32), left.astype(np.int32)
    for tap, (down, right) in enumerate(TAPS):
        y, x = top + down, left + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixels[:, :, tap] = np.where(inside, y * width + x, 0)
        weight = (below if down else 1 - below) * (beside if right else 1 - beside)
        weights[:, :, tap] = np.where(inside, weight, 0)
    return pixels, weights


def augment(
    images: np.ndarray,
    params: AugmentationParams,
    rng: np.random.Generator,
    out: np.ndarray | None = None,
    mean: Sequence[float] = (),
) -> np.ndarray:
    """Change images at random: mirror, crop and cut out each by itself, then bend groups of them.

    Args:
        images: uint8 `[N, C, H, W]`.
        params: which changes, and how large; `custom` is not applied here.
        rng: advanced by the draws of the groups, then by those of the images.
        out: float32 `[N, C, H, W]` to write to; a new array if None.
        mean: of the training images, per channel, in units of a full pixel; what is cut out has it.

    Returns:
        float32 `[N, C, H, W]` with values 0 to 255.
    """
    if out is None:
        out = np.empty(images.shape, np.float32)
    bent = any(getattr(params, amount) for amount in BENDING)
    sampling = _draw_sampling(images.shape, params, rng) if bent else None
    if params.horizontal_flip:
        images = flip(images, params.horizontal_flip, rng)
    if params.crop_padding:
        images = crop(images, params.crop_padding, rng)
    if params.cutout:
        images = cut_out(images, params.cutout, mean, rng)
    if sampling is None:
        out[...] = images
    else:
        _bend(images, *sampling, out)
    return out


def flip(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mirror each image, left to right, with the probability `share`; uint8 `[N, C, H, W]`."""
    mirrored = np.flatnonzero(rng.random(len(images)) < share)
    changed = images.copy()
    changed[mirrored] = images[mirrored, :, :, ::-1]
    return changed


def crop(images: np.ndarray, padding: int, rng: np.random.Generator) -> np.ndarray:
    """Move each image by up to `padding` pixels each way, and black in; uint8 `[N, C, H, W]`."""
    moves = rng.integers(-padding, padding, (len(images), 2), endpoint=True)
    rows, columns = (
        [_overlap(move, side) for move in range(-padding, padding + 1)] for side in images.shape[2:]
    )
    moved = np.zeros_like(images)
    # Slices, one image after the other: half the time of a gather, or of groups that move alike.
    for target, source, (down, right) in zip(
        moved, images, (moves + padding).tolist(), strict=True
    ):
        (to_rows, from_rows), (to_columns, from_columns) = rows[down], columns[right]
        target[:, to_rows, to_columns] = source[:, from_rows, from_columns]
    return moved


def _overlap(move: int, side: int) -> tuple[slice, slice]:
    """Return where what is moved comes to lie, and where it was; empty if it leaves the image."""
    kept = max(0, side - abs(move))
    to, start = max(0, move), max(0, -move)
    return slice(to, to + kept), slice(start, start + kept)


def cut_out(
    images: np.ndarray, side: int, mean: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Fill a square around a random pixel of each image with the mean; uint8 `[N, C, H, W]`.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout" (2017).
    """
    fill = np.rint(255 * np.array(mean)).astype(np.uint8)[:, None, None]
    tops, lefts = (rng.integers(0, length, len(images)) - side // 2 for length in images.shape[2:])
    cut = images.copy()
    for image, top, left in zip(cut, tops.tolist(), lefts.tolist(), strict=True):
        rows, columns = (slice(max(0, start), start + side) for start in (top, left))
        image[:, rows, columns] = fill
    return cut


def _draw_sampling(
    shape: tuple[int, ...], params: AugmentationParams, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a map for each group of images; return its `sampling_taps`."""
    count, _, height, width = shape
    groups = -(-count // params.images_per_draw)
    maps = draw_affines(params, groups, (height, width), rng)
    displacements = draw_displacements(params, groups, (height, width), rng)
    return sampling_taps(maps, (height, width), displacements)


def _bend(images: np.ndarray, pixels: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Change each image by its group's map.

    Image `i` belongs to group `i modulo the number of groups`, so that neighbours differ. The
    groups are worked on one by one: each stays in the processor's cache from uint8 to float32.
    """
    _, channels, height, width = images.shape
    groups, area = len(pixels), height * width
    starts = np.arange(0, area * len(TAPS) + 1, len(TAPS), dtype=np.int32)
    matrix = csr_array((weights[0].ravel(), pixels[0].ravel(), starts), shape=(area, area))
    for group in range(groups):
        matrix.data, matrix.indices = weights[group].ravel(), pixels[group].ravel()
        members = images[group::groups].reshape(-1, area)  # [images of the group * C, H*W]
        changed = matrix @ members.T.astype(np.float32, order="C")  # [H*W, images * C]
        out[group::groups] = changed.T.reshape(-1, channels, height, width)
