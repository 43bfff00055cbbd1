"""The files that the images of the data set `folder` were decoded from."""

import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from image_pipeline.common import paths
from image_pipeline.common.params import Params
from image_pipeline.datasets.folder import FILE
from image_pipeline.downloading.dataset import load_dataset
from image_pipeline.reading.splitting import stratified_split


def image_files(params: Params) -> dict[str, list[str]]:
    """Return the names of each split's files, in the images' order; empty for other data sets.

    Reads the data set as the stage `tensorize` does.

    Raises:
        DataError: the files in data/raw/ are missing or invalid.
    """
    if params.download.dataset != "folder":
        return {"train": [], "validation": [], "test": []}
    dataset = load_dataset("folder").read(paths.RAW, params)
    held_out = stratified_split(
        dataset.train.labels,
        dataset.class_names,
        params.tensorize.validation_fraction,
        params.tensorize.seed,
        "tensorize.validation_fraction",
    )
    files = np.array(dataset.train.files, object)
    return {
        "train": files[~held_out].tolist(),
        "validation": files[held_out].tolist(),
        "test": list(dataset.test.files),
    }


def file_sizes(names: list[str], folder: Path = paths.RAW) -> list[tuple[int, int]]:
    """Return width and height in each file's header; (0, 0) where Pillow cannot tell."""
    if not names:
        return []
    sizes = []
    with tarfile.open(folder / FILE) as tar:
        for name in names:
            size = (0, 0)
            content = tar.extractfile(name)
            if content:
                try:
                    with Image.open(content) as image:
                        size = image.size
                except (UnidentifiedImageError, OSError):
                    pass
            sizes.append(size)
    return sizes
