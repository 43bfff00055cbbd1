"""The bare decoding loop that `tensorize` and `predict` of a folder are measured against.

    python benchmarks/decode.py FOLDER

decodes every PNG file below FOLDER with Pillow, on all cores, and discards the pixels.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

BATCH = 500


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray, count: int) -> None:
    """Write `count` PNG files to class folders, cycling through uint8 images `[N, 28, 28]`."""
    for label in np.unique(labels):
        (folder / f"digit {label}").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        index = number % len(images)
        pixels = np.roll(images[index], number // len(images), axis=1)
        path = folder / f"digit {labels[index]}" / f"{number:07}.png"
        Image.fromarray(pixels).save(path)


def decode_files(paths: list[Path]) -> int:
    """Decode files; return how many."""
    for path in paths:
        with Image.open(path) as image:
            image.load()
    return len(paths)


def batches(paths: list[Path]) -> Iterator[list[Path]]:
    """Split a list into chunks for the processes."""
    return (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))


def main() -> None:
    """Decode all files of the folder."""
    paths = sorted(Path(sys.argv[1]).rglob("*.png"))
    with multiprocessing.Pool() as pool:
        print(sum(pool.imap_unordered(decode_files, batches(paths))))


if __name__ == "__main__":
    main()
