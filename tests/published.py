"""Small files in the formats in which the MNIST family is published."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np

from image_pipeline.datasets.base import RawSplit

REMEDY = "; delete it and run `dvc repro --force download`"
IDX_TYPES = {"u1": 8, "i4": 12}


def idx(values: np.ndarray) -> bytes:
    """Return a gzip-compressed IDX file of uint8 or int32 values."""
    kind = values.dtype.newbyteorder(">")
    header = bytes((0, 0, IDX_TYPES[kind.str[1:]], values.ndim))
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(header + sizes + values.astype(kind).tobytes(), mtime=0)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def whole(split: RawSplit) -> np.ndarray:
    """Return all images of a split, `[N, C, H, W]`."""
    return np.concatenate(list(split.chunks()))
