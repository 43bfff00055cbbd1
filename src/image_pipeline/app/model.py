"""The model behind the page, and the images of its data set: no word of Gradio or HTML here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_pipeline.app.nearest import Neighbour, find_nearest
from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.datasets.image_files.pixels import cause, quiet_but_wary
from image_pipeline.prediction.predictor import open_predictor
from image_pipeline.prediction.preparation import Prepared, is_of_digits
from image_pipeline.prediction.sources import Source
from image_pipeline.prediction.streaming import Image, Prediction, predict_files
from image_pipeline.tensors.tensor_files import Split, read_split


class UnreadableError(Exception):
    """An image that cannot be read; says in a line why."""


@dataclass(frozen=True)
class Answer:
    """What the model says of an image.

    Attributes:
        pixels: what the network saw, uint8 `[C, H, W]`.
        probabilities: of each class, by name.
        doubtful: whether the image is unlike those that the model was trained on.
        prepared: what was done to the image; None if it is one of the data set's own.
    """

    pixels: np.ndarray
    probabilities: dict[str, float]
    doubtful: bool
    prepared: Prepared | None

    @property
    def best(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])


class Model:
    """A model and, where they are there, its training and test images.

    Args:
        path: of the model file.

    Attributes:
        card: what the file says of the model.
        is_of_digits: whether a drawing is brought to MNIST's form.
        train, test: the splits; a line that says what is missing, where they are not there.

    Raises:
        DataError: the model file is missing, or is not what it should be.
        PreparationError: its images are of a shape that no image file has.
    """

    def __init__(self, path: Path = paths.MODEL) -> None:
        self._path = path
        self._predictor = open_predictor(path)
        self._prepare = self._predictor.preparation()
        self.card = self._predictor.card
        self.is_of_digits = is_of_digits(self.card)
        self.train = self._split(paths.TRAIN_TENSORS)
        self.test = self._split(paths.TEST_TENSORS)

    def _split(self, path: Path) -> Split | str:
        try:
            split = read_split(path)
            self.card.check_fits(path, split)
        except DataError as error:
            hint = f" (or `dvc pull {path}`)" if not path.exists() else ""
            return f"{error}{hint}"
        return split

    @property
    def can_be_drawn(self) -> bool:
        """Whether an image can be drawn with one pen: those of the data set are grey."""
        return self.card.input_shape[0] == 1

    @property
    def is_light_on_dark(self) -> bool:
        """Whether the training images are, so that a drawing must be."""
        return self.card.data.mean[0] < 0.5

    def ask_about_file(self, content: bytes) -> Answer:
        """Prepare an image file as `predict` does, and ask about it.

        Raises:
            UnreadableError: it is none that can be read.
        """
        with quiet_but_wary():
            try:
                made, prepared = self._prepare(content)
            except Exception as error:  # Pillow's decoders raise whatever they trip over
                raise UnreadableError(one_line(cause(error))) from None
        pixels = np.frombuffer(made, np.uint8).reshape(self.card.input_shape)
        return self._ask(pixels, prepared)

    def ask_about_test_image(self, number: int) -> tuple[Answer, str]:
        """Ask about a test image; return its class, too.

        Raises:
            UnreadableError: there is no such image.
        """
        if isinstance(self.test, str):
            raise UnreadableError(self.test)
        count = len(self.test.labels)
        if not 0 <= number < count:
            raise UnreadableError(
                f"there is no test image {number}: they run from 0 to {count - 1}"
            )
        actual = self.card.data.class_names[int(self.test.labels[number])]
        return self._ask(self.test.images[number].numpy(), None), actual

    def _ask(self, pixels: np.ndarray, prepared: Prepared | None) -> Answer:
        predictions = self._predictor.predict(pixels[None])
        shares = predictions.probabilities[0].tolist()
        return Answer(
            pixels,
            dict(zip(self.card.data.class_names, shares, strict=True)),
            bool(predictions.doubtful[0]),
            prepared,
        )

    def predict(self, files: Sequence[str]) -> list[Prediction | Image]:
        """Return what `predict` says of image files."""
        return list(predict_files(map(Source, files), self._path, processes=1))

    def nearest(self, pixels: np.ndarray, count: int) -> list[Neighbour]:
        """Return the training images that are nearest to one, uint8 `[C, H, W]`.

        Raises:
            UnreadableError: there are no training images.
        """
        if isinstance(self.train, str):
            raise UnreadableError(self.train)
        return find_nearest(self.train, pixels, count)
