"""The bare loop that `tensorize` and `predict` of a folder of images are measured beside.

    python benchmarks/decode.py FOLDER

opens and decodes every PNG file below FOLDER with Pillow, on all cores, and does nothing with them.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

BATCH = 500


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray, count: int) -> None:
    """Write `count` PNG files into class folders, made of uint8 images `[N, 28, 28]` in turn."""
    for label in np.unique(labels):
        (folder / f"digit {label}").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        turn = number % len(images)
        pixels = np.roll(images[turn], number // len(images), axis=1)
        path = folder / f"digit {labels[turn]}" / f"{number:07}.png"
        Image.fromarray(pixels).save(path)


def decode_files(paths: list[Path]) -> int:
    """Decode files and drop their pixels."""
    for path in paths:
        with Image.open(path) as image:
            image.load()
    return len(paths)


def batches(paths: list[Path]) -> Iterator[list[Path]]:
    """Cut a list into pieces for the processes."""
    return (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))


def main() -> None:
    """Decode all files of the folder."""
    paths = sorted(Path(sys.argv[1]).rglob("*.png"))
    with multiprocessing.Pool() as pool:
        print(sum(pool.imap_unordered(decode_files, batches(paths))))


if __name__ == "__main__":
    main()
