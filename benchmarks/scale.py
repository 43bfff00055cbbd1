"""Tensorize, train (one epoch) and evaluate on 60 thousand to 6 million images.

    python benchmarks/scale.py [--largest 6000000]

The images are copies of MNIST's, each shifted by a different number of pixels, with one test image
per six training images. Seconds are those of the whole process, start-up and imports included. So
that these do not hide growth, the ratio is also given without the fixed cost, which is the time for
600 images. Medians of 5 runs of each size, 9 for short ones. Needs about 15 GB of disk.
"""

import argparse
import gzip
import shutil
import statistics
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
from processes import Measured, clone_project, measure, seconds_of_public_epoch, set_params
from report import ROOT, Figures, publish, why_not_kept
from safetensors.numpy import load_file
from tqdm import tqdm

FEW = 600
SMALL = 60_000
TRAIN_PER_TEST = 6
STAGES = ("tensorize", "weights", "train", "evaluate")
REPEATS = {FEW: 9, SMALL: 9}
OTHER_REPEATS = 5
PREFIXES = {"train": "train", "test": "t10k"}


def write_raw(folder: Path, split: str, count: int) -> None:
    """Write MNIST's two files of a split, with `count` images derived from the real ones."""
    tensors = load_file(ROOT / "data" / "tensors" / f"{split}.safetensors")
    images, labels = tensors["images"][:, 0], tensors["labels"].astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = PREFIXES[split]
    with (
        gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz", "wb", 1) as to_images,
        gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz", "wb", 1) as to_labels,
    ):
        to_images.write(bytes((0, 0, 8, 3)) + struct.pack(">3I", count, 28, 28))
        to_labels.write(bytes((0, 0, 8, 1)) + struct.pack(">I", count))
        for copy, start in enumerate(range(0, count, len(images))):
            shift = (copy % 7 - 3, copy // 7 % 7 - 3)
            number = min(len(images), count - start)
            to_images.write(np.roll(images[:number], shift, axis=(1, 2)).tobytes())
            to_labels.write(labels[:number].tobytes())


def run_stages(project: Path, count: int, repeats: int) -> dict[str, list[Measured]]:
    """Create `count` training images and run every stage on them."""
    shutil.rmtree(project / "data", ignore_errors=True)
    for split, number in (("train", count), ("test", max(100, count // TRAIN_PER_TEST))):
        write_raw(project / "data" / "raw", split, number)
    runs: dict[str, list[Measured]] = {stage: [] for stage in STAGES}
    for _ in range(repeats):
        for stage in STAGES:
            runs[stage].append(measure([sys.executable, f"stages/{stage}.py"], project))
    return runs


def main() -> None:
    """Run the benchmark, print and save its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--largest", type=int, default=100 * SMALL, help="images (6000000)")
    arguments = parser.parse_args()
    if arguments.largest <= 10 * SMALL:
        parser.error(f"--largest must be above {10 * SMALL}")
    sizes = [FEW, SMALL, 10 * SMALL, arguments.largest]
    epoch_seconds = seconds_of_public_epoch()
    figures: Figures = {}
    runs: dict[int, dict[str, list[Measured]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary) / "project"
        clone_project(project)
        set_params(project, dataset="mnist", epochs=1)
        for size in tqdm(sizes, desc="scale", unit="size"):
            runs[size] = run_stages(project, size, REPEATS.get(size, OTHER_REPEATS))
    for stage in STAGES:
        seconds, memory = {}, {}
        for size in sizes:
            measured = runs[size][stage]
            seconds[size] = statistics.median(run.seconds for run in measured)
            memory[size] = statistics.median(run.peak_mb for run in measured)
            figures[f"scale.{stage}.seconds_{size}"] = seconds[size]
            figures[f"scale.{stage}.peak_mb_{size}"] = memory[size]
        large = arguments.largest
        times = f"{large / SMALL:g}x_over_1x"
        figures[f"scale.seconds_{times}.{stage}"] = seconds[large] / seconds[SMALL]
        figures[f"scale.seconds_less_fixed_{times}.{stage}"] = (seconds[large] - seconds[FEW]) / (
            seconds[SMALL] - seconds[FEW]
        )
        figures[f"scale.peak_memory_{times}.{stage}"] = memory[large] / memory[SMALL]
    fewer = arguments.largest != 100 * SMALL
    reason = "fewer images" if fewer else why_not_kept(whole=False)
    publish("scale", figures, epoch_seconds, keep=not reason)


if __name__ == "__main__":
    main()
