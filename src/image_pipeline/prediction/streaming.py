"""Image files to predictions, some at a time, on all cores.

Processes decode and prepare files, the same processes ask the network about batches. A batch is
made of the images in their order, and one that cannot be read is a black one there: so the number
of processes changes no bit, and the test images come out as `evaluate` has them.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from image_pipeline.common.cores import available_cores
from image_pipeline.common.processes import Processes
from image_pipeline.datasets.image_files.pixels import cause, has_more_frames, quiet_but_wary
from image_pipeline.prediction.predictor import Predictions, Predictor, open_predictor
from image_pipeline.prediction.preparation import Preparation, Prepared
from image_pipeline.prediction.sources import Source

TASK_IMAGES = 250
TASK_BYTES = 1 << 22  # of image files

Made = tuple[Prepared, bool, str]  # the attributes of an `Image`, without its source


@dataclass(frozen=True, slots=True)
class Image:
    """What became of an image file.

    Attributes:
        source: the file.
        prepared: what was done to it.
        more_frames: whether the file has more frames than the first, which was taken.
        error: why it could not be read; empty where it could.
    """

    source: Source
    prepared: Prepared = "as-trained"
    more_frames: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of an image file that could be read.

    Attributes:
        image: the file.
        class_name: the most probable class.
        probability: of it, 0 to 1.
        runner_up: the next one.
        runner_up_probability: of that.
        doubtful: whether the image is unlike those that the model was trained on.
    """

    image: Image
    class_name: str
    probability: float
    runner_up: str
    runner_up_probability: float
    doubtful: bool


def predict_files(
    sources: Iterable[Source],
    model: Path,
    preparation: Preparation | None = None,
    processes: int | None = None,
) -> Iterator[Prediction | Image]:
    """Predict image files as they come, in their order; memory does not grow with their number.

    Args:
        sources: the files.
        model: the model file; `open_predictor` reads it once.
        preparation: of the files; the model's own, `auto`, where it is None.
        processes: how many work; as many as there are cores, where it is None.

    Yields:
        A prediction of each file; of one that cannot be read the image alone, with the error.

    Raises:
        DataError: the model file is missing, or is not what it should be.
        PreparationError: the model takes images that no file has.
        PipelineError: a process ended before its work.
    """
    predictor = open_predictor(model)
    preparation = preparation or predictor.preparation()
    number = processes or available_cores()
    with Processes(number, "predicts images", "run the command again") as workers:
        batches = _batches(_prepared(sources, preparation, workers), predictor)
        waiting: deque[list[Image]] = deque()  # of which a process has the pixels

        def pixels() -> Iterator[tuple[Path, np.ndarray]]:
            for images, content in batches:
                waiting.append(images)
                yield model, content

        for predictions in workers.map(_ask, pixels()):
            yield from _told(waiting.popleft(), predictions, predictor.class_names)


def _prepared(
    sources: Iterable[Source], preparation: Preparation, workers: Processes
) -> Iterator[tuple[list[Image], np.ndarray]]:
    """Yield files in parts, with their pixels uint8 `[n, C, H, W]`."""
    waiting: deque[list[Source]] = deque()

    def tasks() -> Iterator[tuple[list[Source], Preparation]]:
        for part in _parts(sources):
            waiting.append(part)
            yield part, preparation

    for outcomes, pixels in workers.map(_prepare, tasks()):
        part = waiting.popleft()
        yield [Image(source, *made) for source, made in zip(part, outcomes, strict=True)], pixels


def _parts(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """Cut the files into tasks."""
    part: list[Source] = []
    content = 0
    for source in sources:
        size = source.bytes()
        if part and (len(part) == TASK_IMAGES or content + size > TASK_BYTES):
            yield part
            part, content = [], 0
        part.append(source)
        content += size
    if part:
        yield part


def _prepare(sources: list[Source], preparation: Preparation) -> tuple[list[Made], np.ndarray]:
    """Return what became of files, and their pixels, uint8 `[n, C, H, W]`."""
    pixels = np.zeros((len(sources), preparation.pixels.bytes_per_image), np.uint8)
    outcomes: list[Made] = []
    with quiet_but_wary():
        for row, source in zip(pixels, sources, strict=True):
            try:
                content = source.read()
                made, prepared = preparation(content)
                row[:] = np.frombuffer(made, np.uint8)
                outcomes.append((prepared, has_more_frames(content), ""))
            except Exception as error:  # Pillow's decoders raise whatever they trip over
                outcomes.append(("as-trained", False, cause(error)))
    return outcomes, pixels.reshape(-1, *preparation.pixels.shape)


def _batches(
    prepared: Iterable[tuple[list[Image], np.ndarray]], predictor: Predictor
) -> Iterator[tuple[list[Image], np.ndarray]]:
    """Make batches of what comes in parts."""
    size = predictor.max_batch_size
    images: list[Image] = []
    pixels = np.empty((0, *predictor.card.input_shape), np.uint8)
    for more_images, more_pixels in prepared:
        images += more_images
        pixels = np.concatenate([pixels, more_pixels])
        while len(images) >= size:
            yield images[:size], pixels[:size]
            images, pixels = images[size:], pixels[size:]
    if images:
        yield images, pixels


def _ask(model: Path, pixels: np.ndarray) -> Predictions:
    if multiprocessing.parent_process():  # whose threads did not survive the fork
        torch.set_num_threads(1)
    return open_predictor(model).predict(pixels)


def _told(
    images: list[Image], predictions: Predictions, class_names: tuple[str, ...]
) -> Iterator[Prediction | Image]:
    """Yield the predictions of a batch, and the images that could not be read."""
    best = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :2]
    probabilities = np.take_along_axis(predictions.probabilities, best, axis=1)
    rows = zip(
        images, best.tolist(), probabilities.tolist(), predictions.doubtful.tolist(), strict=True
    )
    for image, (first, second), (probability, of_second), doubtful in rows:
        if image.error:
            yield image
        else:
            yield Prediction(
                image, class_names[first], probability, class_names[second], of_second, doubtful
            )
