"""Seconds of single epochs with several settings, interleaved, in a process of their own.

    python benchmarks/epochs.py '{"numerics": "fast", "pairs": 5, "settings": {...}}'

`settings` names the settings of `Trainer`; each round times one epoch of each, A B A B ..., and
the floor: plain matrix products of the shapes of one epoch. Prints one JSON object with the seconds
of each, round by round.
"""

import atexit
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from uuid import uuid4

from learners import HIDDEN, make_trainer

from image_pipeline import numerics
from image_pipeline.augmenting.params import AUGMENTATION_AMOUNTS
from image_pipeline.common.paths import CHECKPOINTS

IMAGES, INPUTS, CLASSES = 54_000, 784, 10


def epoch_timer(settings: dict[str, Any], kernels: str) -> Callable[[], float]:
    """Return a function that trains the next epoch and returns its seconds, checkpoint included."""
    from image_pipeline.training.checkpoint import CheckpointFile
    from image_pipeline.training.live_curves import LiveCurves

    plotted = settings.pop("plotted", False)
    changes: dict[str, Any] = {
        "numerics": kernels,
        "epochs": 10_000,
        "lr_schedule": {"name": "constant"},
    }
    if not settings.pop("augmented"):
        changes["augmentation"] = dict.fromkeys(AUGMENTATION_AMOUNTS, 0)
    trainer = make_trainer(**changes, **settings)
    checkpoint = CheckpointFile(CHECKPOINTS, uuid4().hex)
    atexit.register(checkpoint.remove)
    epochs = trainer.train(checkpoint)
    written = [CHECKPOINTS / f"{uuid4().hex}.{kind}" for kind in ("png", "csv")]
    for path in written:
        atexit.register(path.unlink, missing_ok=True)
    curves = LiveCurves(*written)

    def timed() -> float:
        start = time.perf_counter()
        history = next(epochs)
        if plotted:
            curves.update(history[-30:])
        return time.perf_counter() - start

    return timed


def augmentation_timer() -> Callable[[], float]:
    """Return a function that augments the images of an epoch, in chunks, on one thread."""
    import numpy as np

    from image_pipeline.augmenting.augmentation import augment
    from image_pipeline.common.params import read_params
    from image_pipeline.training.loader import CHUNK_BYTES

    params = read_params().train.augmentation
    rng = np.random.default_rng(0)
    count = CHUNK_BYTES // (4 * INPUTS)
    images = rng.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)
    space = np.empty(images.shape, np.float32)

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(-(-IMAGES // count)):
            augment(images, params, rng, space, (0.1307,))
        return time.perf_counter() - start

    return timed


def progress_bar_timer(batch: int) -> Callable[[], float]:
    """Return a function that updates a progress bar as often as one epoch does."""
    from tqdm import tqdm

    bar = tqdm(total=10_000 * IMAGES, unit="image", unit_scale=True)

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(-(-IMAGES // batch)):
            bar.update(batch)
        return time.perf_counter() - start

    return timed


def floor_timer(batch: int) -> Callable[[], float]:
    """Return a function that only computes the matrix products of one epoch.

    Of whole batches, with threads on all cores.
    """
    import torch

    from image_pipeline.common.cores import available_cores

    sizes = [INPUTS, *HIDDEN, CLASSES]
    products = []
    for before, after in pairwise(sizes):
        inputs, weights = torch.randn(batch, before), torch.randn(after, before)
        gradients = torch.randn(batch, after)
        products += [(inputs, weights.t()), (gradients.t(), inputs)]
        if before != INPUTS:  # the gradient of the images is not needed
            products.append((gradients, weights))

    def timed() -> float:
        torch.set_num_threads(available_cores())
        start = time.perf_counter()
        for _ in range(-(-IMAGES // batch)):
            for left, right in products:
                torch.mm(left, right)
        end = time.perf_counter()
        torch.set_num_threads(1)
        return end - start

    return timed


def main() -> None:
    """Run the timers that the first argument, JSON, requests."""
    request = json.loads(sys.argv[1])
    numerics.pin(request["numerics"])
    timers = {
        name: epoch_timer(settings, request["numerics"])
        for name, settings in request["settings"].items()
    }
    timers["augmentation"] = augmentation_timer()
    timers["progress_bar"] = progress_bar_timer(256)
    timers["matmul_floor"] = floor_timer(512)
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for name in timers:
        timers[name]()  # warm up
    for _ in range(request["pairs"]):
        for name, timer in timers.items():
            seconds[name].append(timer())
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
