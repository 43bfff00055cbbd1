"""Augmentation of whole batches: warps (affine and elastic), crops, flips, cutout and colours.

Bilinear sampling is linear in the pixels: an output pixel is the weighted sum of four input pixels.
A small group of images shares one draw of rotation, scale, shear, translation and elastic
displacement, so warping a group is the product of a sparse matrix (four values per row) and a dense
one (a column per image). The images of a group are spread over the block: a batch mixes draws.

Elastic displacement: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural
Networks Applied to Visual Document Analysis" (2003), with a random B-spline for smoothed noise.

Why not `torch.nn.functional.grid_sample`: it recomputes the four weights for every image and takes
several times as long. The weights are rounded so that SciPy's sums are exact: whether it rounds
between a product and a sum depends on the processor it was compiled for.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.nn import functional

from image_pipeline.augmenting.params import WARPS, AugmentationParams
from image_pipeline.numerics.products import multiply

CONTROL_POINTS = 7  # of the elastic field, per axis: about one bend per quarter of the image
MAX_LOG_RATIO = math.log(4 / 3)  # of a crop's width to its height, relative to the image's
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601), as in torchvision
# Rotates the hue by a quarter turn: from the matrix of the colour space YIQ and its inverse.
QUARTER_TURN = np.outer([0.621, -0.647, 1.703], [0.596, -0.274, -0.322]) - np.outer(
    [0.956, -0.272, -1.106], [0.211, -0.523, 0.312]
)
CACHED_BYTES = 1 << 20  # of images whose colours are changed at once, which stay in the cache
WEIGHT_STEPS = 1 << 16  # so that a sum of four weighted bytes is exact: it has 24 bits
TAPS = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column offsets of the four neighbours


def draw_affines(
    params: AugmentationParams, count: int, size: Sequence[int], rng: np.random.Generator
) -> np.ndarray:
    """Draw `count` affine maps from output to input pixel coordinates.

    Args:
        params: the largest amount of each.
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
        shift_down, shift_right = params.translation * down, params.translation * right
        maps[index, 0] = rows * (cosine + tangent * sine), rows * sine, shift_down * height
        maps[index, 1] = columns * (tangent * cosine - sine), columns * cosine, shift_right * width
    return maps


def draw_displacements(
    params: AugmentationParams, count: int, size: Sequence[int], rng: np.random.Generator
) -> np.ndarray | None:
    """Draw `count` smooth displacement fields: random cubic B-splines.

    Args:
        params: the largest displacement.
        count: how many fields.
        size: height and width in pixels.
        rng: advanced by two numbers per control point and field.

    Returns:
        float32 `[count, 2, H*W]`, pixels down and to the right; None if `elastic` is 0.
    """
    if not params.elastic:
        return None
    control = rng.uniform(-1, 1, (count, 2, CONTROL_POINTS, CONTROL_POINTS)).astype(np.float32)
    control *= np.array([params.elastic * side for side in size], np.float32)[:, None, None]
    down, right = (_spline_weights(side) for side in size)
    # Sums in a fixed order: matrix products depend on the processor unless they are pinned.
    height, width = size
    rows = np.zeros((height, count, 2, CONTROL_POINTS), np.float32)
    fields = np.zeros((count, 2, height, width), np.float32)
    for i in range(CONTROL_POINTS):
        rows += down[:, i, None, None, None] * control[:, :, i]
    for j in range(CONTROL_POINTS):
        fields += rows[:, :, :, j].transpose(1, 2, 0)[..., None] * right[:, j]
    return fields.reshape(count, 2, height * width)


def _spline_weights(side: int) -> np.ndarray:
    """Return weights float32 `[side, CONTROL_POINTS]` of a uniform cubic B-spline at each pixel."""
    position = (np.arange(side) + 0.5) / side * (CONTROL_POINTS - 3)
    first = np.floor(position).astype(np.int64)
    t = position - first
    u = 1 - t
    # No powers: numpy's depend on the processor.
    pieces = (u * u * u, 4 - 6 * t * t + 3 * t * t * t, 4 - 6 * u * u + 3 * u * u * u, t * t * t)
    weights = np.zeros((side, CONTROL_POINTS), np.float32)
    for offset, piece in enumerate(pieces):
        weights[np.arange(side), first + offset] = piece / 6
    return weights


def sampling_taps(
    maps: np.ndarray, size: Sequence[int], displacements: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the four weighted input pixels of each output pixel, by bilinear sampling.

    Args:
        maps: float `[G, 2, 3]` from `draw_affines`.
        size: height and width in pixels.
        displacements: from `draw_displacements`.

    Returns:
        Indices of the input pixels, int32 `[G, H*W, 4]`, and their weights, float32
        `[G, H*W, 4]`, which are 0 outside the image.
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
    # Weights of the four in steps of 2^-16, whose sum is 1: their products with bytes are exact.
    beside = source_column - left
    far = _rounded(source_row - top)
    far_right, near_right = _rounded(far * beside), _rounded((1 - far) * beside)
    shares = (1 - far) - near_right, near_right, far - far_right, far_right

    pixels = np.empty((len(maps), height * width, len(TAPS)), np.int32)
    weights = np.empty((len(maps), height * width, len(TAPS)), np.float32)
    top, left = top.astype(np.int32), left.astype(np.int32)
    for tap, (down, right) in enumerate(TAPS):
        y, x = top + down, left + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixels[:, :, tap] = np.where(inside, y * width + x, 0)
        weights[:, :, tap] = np.where(inside, shares[tap], 0)
    return pixels, weights


def _rounded(weights: np.ndarray) -> np.ndarray:
    """Return float32 weights in steps of 2^-16."""
    rounded: np.ndarray = np.rint(weights * WEIGHT_STEPS) / np.float32(WEIGHT_STEPS)
    return rounded


def augment(
    images: np.ndarray,
    params: AugmentationParams,
    rng: np.random.Generator,
    out: np.ndarray | None = None,
    mean: Sequence[float] = (),
) -> np.ndarray:
    """Augment images: crop, flip and cut out each one, warp them in groups, change their colours.

    Args:
        images: uint8 `[N, C, H, W]`.
        params: which augmentations and how strong; `custom` is not applied here.
        rng: advanced by the draws of the groups, then by those of the images.
        out: float32 `[N, C, H, W]` to write to; a new array if None.
        mean: of the training images, per channel, from 0 to 1: the fill value of cutout.

    Returns:
        float32 `[N, C, H, W]` with values 0 to 255.
    """
    if out is None:
        out = np.empty(images.shape, np.float32)
    count, _, *size = images.shape
    taps = None
    if any(getattr(params, amount) for amount in WARPS):
        groups = -(-count // params.images_per_draw)
        maps = draw_affines(params, groups, size, rng)
        taps = sampling_taps(maps, size, draw_displacements(params, groups, size, rng))
    if params.min_crop_scale < 1:
        images = resized_crop(images, params.min_crop_scale, rng)
    if params.horizontal_flip:
        images = flip(images, params.horizontal_flip, rng)
    if params.crop_padding:
        images = crop(images, params.crop_padding, rng)
    if params.cutout:
        images = cutout(images, params.cutout, mean, rng)
    colours = draw_colours(params, images, rng)
    if taps is None:
        out[...] = images
    else:
        _warp(images, *taps, out)
    if colours is not None:
        _transform_colours(out, *colours)
    return out


def resized_crop(images: np.ndarray, min_scale: float, rng: np.random.Generator) -> np.ndarray:
    """Cut a random rectangle out of each image and resize it to the whole; uint8 `[N, C, H, W]`.

    Its share of the area is uniform from `min_scale` to 1, the logarithm of its aspect ratio
    uniform between those of 3/4 and 4/3, as far as the image has room for it. Torchvision's
    RandomResizedCrop draws again where there is no room.
    """
    count, _, height, width = images.shape
    areas, turns = rng.uniform([[min_scale], [-1.0]], 1, (2, count))
    # Rounded, as the last bit of a logarithm and of a power depends on the processor.
    ratios = np.round(np.exp(turns * np.minimum(MAX_LOG_RATIO, -np.log(areas))), 9)
    heights = np.maximum(1, np.rint(height * np.sqrt(areas / ratios))).astype(int)
    widths = np.maximum(1, np.rint(width * np.sqrt(areas * ratios))).astype(int)
    tops = rng.integers(0, height - heights, endpoint=True)
    lefts = rng.integers(0, width - widths, endpoint=True)
    resized = np.empty_like(images)
    for target, image, top, left, tall, wide in zip(
        *(torch.from_numpy(resized), torch.from_numpy(images)),
        *(numbers.tolist() for numbers in (tops, lefts, heights, widths)),
        strict=True,
    ):
        box = image[None, :, top : top + tall, left : left + wide]
        # Of bytes, the antialiased form computes in integers, and fast.
        target[...] = functional.interpolate(
            box, (height, width), mode="bilinear", antialias=True
        ).squeeze(0)
    return resized


def draw_colours(
    params: AugmentationParams, images: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw a change of brightness, contrast, saturation and hue for each image.

    The first three are those of torchvision's ColorJitter, in this order, but values are clipped
    once, at the end. The hue is rotated in the colour space YIQ, as in NVIDIA DALI's `color_twist`:
    all four are then one matrix, and take a twentieth of the time of a detour through HSV.

    Args:
        params: the largest change of each.
        images: uint8 `[N, C, H, W]`.
        rng: advanced by four numbers per image.

    Returns:
        float32 `[N, C, C]` and `[N, 1, 1]`: a pixel `[C]` becomes `matrix @ pixel + offset`.
        None if all four are 0.
    """
    amounts = [params.brightness, params.contrast, params.saturation, params.hue]
    if not any(amounts):
        return None
    count, channels, height, width = images.shape
    draws = np.array(amounts)[:, None] * rng.uniform(-1, 1, (count, len(amounts))).T
    draws = draws[:, :, None, None]
    brightness, contrast, saturation = 1 + draws[:3]  # [N, 1, 1] each
    angle = 2 * math.pi * draws[3]
    # Rounded, as the last bit of a cosine depends on the processor.
    cosine, sine = np.round(np.cos(angle), 9), np.round(np.sin(angle), 9)
    weights, quarter_turn = (LUMA, QUARTER_TURN) if channels == len(LUMA) else (np.ones(1), 0)
    luma = np.tile(weights, (channels, 1))
    chroma = cosine * (np.eye(channels) - luma) + sine * quarter_turn
    matrices = brightness * contrast * (luma + saturation * chroma)
    # Sums of integers: they are exact in any order.
    sums = images.reshape(count, channels, -1).sum(axis=2, dtype=np.int64)
    means = (sums * weights).sum(axis=1) / (height * width)
    offsets = brightness * (1 - contrast) * means[:, None, None]
    return matrices.astype(np.float32), offsets.astype(np.float32)


def _transform_colours(images: np.ndarray, matrices: np.ndarray, offsets: np.ndarray) -> None:
    """Change the colours of images float32 `[N, C, H, W]` in place."""
    pixels = images.reshape(*images.shape[:2], -1)
    at_once = max(1, CACHED_BYTES // images[:1].nbytes)
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        changed = multiply(matrices[part], pixels[part])
        changed += offsets[part]
        np.clip(changed, 0, 255, out=pixels[part])


def flip(images: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Mirror each image left to right with some probability; uint8 `[N, C, H, W]`."""
    chosen = np.flatnonzero(rng.random(len(images)) < probability)
    flipped = images.copy()
    flipped[chosen] = images[chosen, :, :, ::-1]
    return flipped


def crop(images: np.ndarray, padding: int, rng: np.random.Generator) -> np.ndarray:
    """Shift each image by up to `padding` pixels each way, filling with 0; uint8 `[N, C, H, W]`."""
    shifts = rng.integers(-padding, padding, (len(images), 2), endpoint=True)
    rows, columns = (
        [_overlap(shift, side) for shift in range(-padding, padding + 1)]
        for side in images.shape[2:]
    )
    shifted = np.zeros_like(images)
    # Slices, image by image: half the time of a gather, or of grouping images by shift.
    for target, source, (down, right) in zip(
        shifted, images, (shifts + padding).tolist(), strict=True
    ):
        (to_rows, from_rows), (to_columns, from_columns) = rows[down], columns[right]
        target[:, to_rows, to_columns] = source[:, from_rows, from_columns]
    return shifted


def _overlap(shift: int, side: int) -> tuple[slice, slice]:
    """Return the pixels to write and those to read for a shift; empty if it exceeds the image."""
    kept = max(0, side - abs(shift))
    to, start = max(0, shift), max(0, -shift)
    return slice(to, to + kept), slice(start, start + kept)


def cutout(
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


def _warp(images: np.ndarray, pixels: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Warp each image by the sampling taps of its group.

    Image `i` belongs to group `i modulo the number of groups`, so that neighbours differ. The
    groups are processed one by one: each stays in the processor's cache from uint8 to float32.
    """
    _, channels, height, width = images.shape
    groups, area = len(pixels), height * width
    starts = np.arange(0, area * len(TAPS) + 1, len(TAPS), dtype=np.int32)
    matrix = csr_array((weights[0].ravel(), pixels[0].ravel(), starts), shape=(area, area))
    for group in range(groups):
        matrix.data, matrix.indices = weights[group].ravel(), pixels[group].ravel()
        members = images[group::groups].reshape(-1, area)  # [images of the group * C, H*W]
        warped = matrix @ members.T.astype(np.float32, order="C")  # [H*W, images * C]
        out[group::groups] = warped.T.reshape(-1, channels, height, width)
