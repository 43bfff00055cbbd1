"""Random affine change of whole batches of images, as one sparse matrix product.

Bilinear sampling is linear in the pixels: an output pixel is the weighted sum of four input pixels.
One draw of rotation, scale, shear and translation is shared by a small group of images, which makes
it a sparse matrix (four values per row) times a dense one (a column per image). The groups of a
block are strewn over its batches, so a batch still sees many draws.

Why not `torch.nn.functional.grid_sample`: it computes the four weights for every image anew, takes
several times as long, and its masked gathers cannot be run under QEMU, where the promise of the
same bits is checked. SciPy's product is compiled for the x86-64 baseline and adds in a fixed order.
"""

import math

import numpy as np
from scipy.sparse import csr_array

from image_pipeline.params import AugmentationParams

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


def sampling_matrix(maps: np.ndarray, size: tuple[int, int]) -> csr_array:
    """Bilinear sampling by `maps` `[G, 2, 3]` as one block-diagonal matrix.

    Args:
        maps: as `draw_affines` returns them.
        size: height and width in pixels.

    Returns:
        float32 `[G*H*W, G*H*W]`, four stored values per row; what lies outside an image counts 0.
    """
    height, width = size
    pixels = height * width
    row, column = np.divmod(np.arange(pixels), width)
    row = (row - (height - 1) / 2).astype(np.float32)
    column = (column - (width - 1) / 2).astype(np.float32)
    exact = maps.astype(np.float32)[:, :, :, np.newaxis]  # [G, 2, 3, 1]
    source = exact[:, :, 0] * row + exact[:, :, 1] * column + exact[:, :, 2]  # [G, 2, H*W]
    source_row = source[:, 0] + np.float32((height - 1) / 2)
    source_column = source[:, 1] + np.float32((width - 1) / 2)
    top, left = np.floor(source_row), np.floor(source_column)
    below, beside = source_row - top, source_column - left  # the share of the far neighbour
    first = (np.arange(len(maps), dtype=np.int32) * pixels)[:, np.newaxis]

    indices = np.empty((len(maps), pixels, len(TAPS)), np.int32)
    weights = np.empty((len(maps), pixels, len(TAPS)), np.float32)
    top, left = top.astype(np.int32), left.astype(np.int32)
    for tap, (down, right) in enumerate(TAPS):
        y, x = top + down, left + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        indices[:, :, tap] = np.where(inside, y * width + x, 0) + first
        weight = (below if down else 1 - below) * (beside if right else 1 - beside)
        weights[:, :, tap] = np.where(inside, weight, 0)
    total = len(maps) * pixels
    starts = np.arange(total + 1, dtype=np.int32) * len(TAPS)
    return csr_array((weights.ravel(), indices.ravel(), starts), shape=(total, total))


def augment(images: np.ndarray, params: AugmentationParams, rng: np.random.Generator) -> np.ndarray:
    """Change each image by a random affine map that `group_size` images share.

    Image `i` belongs to group `i modulo the number of groups`, so that neighbours differ.

    Args:
        images: uint8 `[N, C, H, W]`.
        params: the largest change of each kind, and the group size.
        rng: advanced by six numbers per group.

    Returns:
        float32 `[N, C, H, W]` with values 0 to 255.
    """
    count, channels, height, width = images.shape
    size = min(params.group_size, count)
    groups = -(-count // size)
    if count % groups:  # fill the last column of groups; the extra images are dropped again below
        images = np.concatenate([images, images[: groups - count % groups]])
    size = len(images) // groups
    pixels = height * width
    # [size, groups, C, H*W] -> [groups, H*W, size, C]: one row per pixel, one column per channel
    columns = images.reshape(size, groups, channels, pixels).transpose(1, 3, 0, 2)
    dense = columns.astype(np.float32, order="C").reshape(groups * pixels, size * channels)
    maps = draw_affines(params, groups, (height, width), rng)
    changed = sampling_matrix(maps, (height, width)) @ dense
    restored = changed.reshape(groups, pixels, size, channels).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(restored).reshape(-1, channels, height, width)[:count]
