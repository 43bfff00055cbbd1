"""Small files in the formats in which the data sets are published, and what reads them."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np

from image_pipeline.common.params import read_params
from image_pipeline.downloading.dataset import RawDataset, RawSplit
from image_pipeline.tensorizing.data_report import SPLITS
from image_pipeline.tensorizing.duplicates import Table
from image_pipeline.tensorizing.tensorize import tensorize
from project import ROOT

REMEDY = "; delete it and run `dvc repro --force download`"
IDX_TYPES = {"u1": 8, "i4": 12}
PARAMS = read_params(ROOT / "params.yaml")
REPORTS = ("data.json", "class_balance.csv", "data.csv")


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


def tensorize_into(
    folder: Path, raw: RawDataset, fraction: float, name: str = "data"
) -> tuple[list[Path], Table]:
    """Return the files of the three splits in `folder`, and the report."""
    paths = [folder / f"{split}.safetensors" for split in SPLITS]
    reports = [folder / report for report in REPORTS]
    return paths, tensorize(raw, name, fraction, 0, paths, *reports)
