"""Predict image files in batches, on all cores.

The same worker processes first decode and preprocess files, then run the network on batches. A
batch holds consecutive inputs, and one that cannot be read is all zeros in it. So the bits do not
depend on the number of processes, and test images give the probabilities that `evaluate` gives.
"""

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import tee
from pathlib import Path

import numpy as np
import torch

from image_pipeline.common.cores import available_cores
from image_pipeline.common.processes import Processes
from image_pipeline.prediction.inputs import ImageInput
from image_pipeline.prediction.predictor import Predictions, Predictor, load_predictor
from image_pipeline.prediction.preprocessing import AppliedMode, Preprocessor
from image_pipeline.reading.pixels import error_cause, has_more_frames, strict_warnings

CHUNK_IMAGES = 250  # preprocessed as one task
CHUNK_BYTES = 1 << 22  # of image files

UNLIKE_TRAINING = "unlike the training images"
UNSURE = "no class is sure"
MIN_PROBABILITY = 0.9  # of a class that is sure
MIN_PROBABILITY_JOINED = 0.97  # if strokes were joined: a gap may make another digit
# The attributes of a `ProcessedImage`, without its input.
Outcome = tuple[AppliedMode, bool, str, tuple[str, ...], tuple[str, ...], bool]


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """An input after preprocessing.

    Attributes:
        input: the file.
        prepared: the preprocessing mode that was applied.
        more_frames: whether the file has more frames than the first, which is used.
        error: why the file could not be read; empty on success.
        doubts: why its class may mean nothing, in words.
        left_out: what else the image shows, in words.
        joined: whether the digit is of several marks, joined as its strokes.
    """

    input: ImageInput
    prepared: AppliedMode = "as-trained"
    more_frames: bool = False
    error: str = ""
    doubts: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for an image file that could be read.

    Attributes:
        image: the file.
        class_name: the most probable class.
        probability: of that class, 0 to 1.
        runner_up: the second most probable class.
        runner_up_probability: of that class.
        doubts: why the class may mean nothing, in words: what the preprocessing found, whether the
            image is out-of-distribution, and whether no class of a converted digit is sure.
    """

    image: ProcessedImage
    class_name: str
    probability: float
    runner_up: str
    runner_up_probability: float
    doubts: tuple[str, ...]

    @property
    def doubtful(self) -> bool:
        """Whether there is a doubt."""
        return bool(self.doubts)


def predict_files(
    inputs: Iterable[ImageInput],
    model: Path,
    preprocessor: Preprocessor | None = None,
    processes: int | None = None,
) -> Iterator[Prediction | ProcessedImage]:
    """Predict image files in order; memory does not grow with their number.

    Args:
        inputs: the files.
        model: path of the model file; `load_predictor` reads it once.
        preprocessor: None for the model's own, in the mode `auto`.
        processes: number of worker processes; None for one per core.

    Yields:
        A prediction for each file; a `ProcessedImage` with an error for one that cannot be read.

    Raises:
        DataError: the model file is missing or invalid.
        ParamsError: the model takes images that `predict` does not support.
        PipelineError: a worker process died.
    """
    predictor = load_predictor(model)
    preprocessor = preprocessor or Preprocessor.for_model(predictor.card)
    count = processes or available_cores()
    with Processes(count, "predicts images", "run the command again") as workers:
        # `tee` keeps the batches that workers predict now.
        batches, copy = tee(_batches(_preprocess_all(inputs, preprocessor, workers), predictor))
        results = workers.map(_predict_batch, ((model, pixels) for _, pixels in copy))
        for (images, _), predictions in zip(batches, results, strict=True):
            yield from _label(images, predictions, predictor.card.data.class_names)


def _preprocess_all(
    inputs: Iterable[ImageInput], preprocessor: Preprocessor, workers: Processes
) -> Iterator[tuple[list[ProcessedImage], np.ndarray]]:
    """Yield chunks of inputs with their pixels, uint8 `[n, C, H, W]`."""
    chunks, copy = tee(_chunks(inputs))
    results = workers.map(_preprocess_chunk, ((chunk, preprocessor) for chunk in copy))
    for chunk, (outcomes, pixels) in zip(chunks, results, strict=True):
        pairs = zip(chunk, outcomes, strict=True)
        yield [ProcessedImage(each, *outcome) for each, outcome in pairs], pixels


def _chunks(inputs: Iterable[ImageInput]) -> Iterator[list[ImageInput]]:
    """Split the inputs into tasks, bounded in number and in bytes."""
    chunk: list[ImageInput] = []
    total = 0
    for each in inputs:
        size = each.size()
        if chunk and (len(chunk) == CHUNK_IMAGES or total + size > CHUNK_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(each)
        total += size
    if chunk:
        yield chunk


def _preprocess_chunk(
    inputs: list[ImageInput], preprocessor: Preprocessor
) -> tuple[list[Outcome], np.ndarray]:
    """Return each input's outcome, and the pixels of all, uint8 `[n, C, H, W]`."""
    pixels = np.zeros((len(inputs), preprocessor.pixels.bytes_per_image), np.uint8)
    outcomes: list[Outcome] = []
    with strict_warnings():
        for row, each in zip(pixels, inputs, strict=True):
            try:
                content = each.read()
                processed = preprocessor(content)
                row[:] = np.frombuffer(processed.pixels, np.uint8)
                more = has_more_frames(content)
                found = processed.doubts, processed.left_out, processed.joined
                outcomes.append((processed.mode, more, "", *found))
            except Exception as error:  # Pillow's decoders raise whatever they trip over
                outcomes.append(("as-trained", False, error_cause(error), (), (), False))
    return outcomes, pixels.reshape(-1, *preprocessor.pixels.shape)


def _batches(
    chunks: Iterable[tuple[list[ProcessedImage], np.ndarray]], predictor: Predictor
) -> Iterator[tuple[list[ProcessedImage], np.ndarray]]:
    """Regroup chunks of any length into full batches; the last one may be smaller."""
    size = predictor.max_batch_size
    images: list[ProcessedImage] = []
    pixels = np.empty((0, *predictor.card.input_shape), np.uint8)
    for more_images, more_pixels in chunks:
        images += more_images
        pixels = np.concatenate([pixels, more_pixels])
        while len(images) >= size:
            yield images[:size], pixels[:size]
            images, pixels = images[size:], pixels[size:]
    if images:
        yield images, pixels


def _predict_batch(model: Path, pixels: np.ndarray) -> Predictions:
    if multiprocessing.parent_process():  # the parent's thread pool did not survive the fork
        torch.set_num_threads(1)
    return load_predictor(model).predict(pixels)


def find_doubts(
    prepared: AppliedMode, probability: float, *, unlike_training: bool, joined: bool
) -> tuple[str, ...]:
    """Return why an image's most probable class may mean nothing, in words.

    The probabilities of a digit that was converted to MNIST's format are less reliable than those
    of an image as trained, so a class must be sure; surer still if its strokes were joined.
    """
    doubts = (UNLIKE_TRAINING,) if unlike_training else ()
    least = MIN_PROBABILITY_JOINED if joined else MIN_PROBABILITY
    return (*doubts, UNSURE) if prepared == "mnist" and probability < least else doubts


def _label(
    images: list[ProcessedImage], predictions: Predictions, class_names: tuple[str, ...]
) -> Iterator[Prediction | ProcessedImage]:
    """Yield a batch's predictions with class names, and the images that could not be read."""
    top2 = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :2]
    probabilities = np.take_along_axis(predictions.probabilities, top2, axis=1)
    rows = zip(
        images, top2.tolist(), probabilities.tolist(), predictions.doubtful.tolist(), strict=True
    )
    for image, (first, second), (p1, p2), doubtful in rows:
        if image.error:
            yield image
        else:
            doubts = image.doubts + find_doubts(
                image.prepared, p1, unlike_training=doubtful, joined=image.joined
            )
            yield Prediction(image, class_names[first], p1, class_names[second], p2, doubts)
