"""The model and its data set's images, for the page; independent of Gradio and HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.prediction.inputs import ImageInput
from image_pipeline.prediction.predictor import load_predictor
from image_pipeline.prediction.preprocessing import AppliedMode, Preprocessed, Preprocessor
from image_pipeline.prediction.streaming import (
    Prediction,
    ProcessedImage,
    find_doubts,
    predict_files,
)
from image_pipeline.reading.pixels import error_cause, strict_warnings
from image_pipeline.tensors.tensor_files import Split, read_split


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction for one image.

    Attributes:
        pixels: the network's input, uint8 `[C, H, W]`.
        probabilities: by class name.
        doubts: why the class may mean nothing, in words.
        prepared: the preprocessing mode that was applied; None for an image of the data set.
        left_out: what else the image shows, in words.
    """

    pixels: np.ndarray
    probabilities: dict[str, float]
    doubts: tuple[str, ...]
    prepared: AppliedMode | None
    left_out: tuple[str, ...] = ()

    @property
    def class_name(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])


class AppModel:
    """A model with its training and test images, if they are there.

    Args:
        path: of the model file.

    Attributes:
        card: the metadata of the model file.
        train, test: the splits; a line that says what is missing if they cannot be read.

    Raises:
        DataError: the model file is missing or invalid.
        ParamsError: the model takes images that `predict` does not support.
    """

    def __init__(self, path: Path = paths.MODEL) -> None:
        self._path = path
        self._predictor = load_predictor(path)
        self.card = self._predictor.card
        self._preprocessor = Preprocessor.for_model(self.card)
        self.train = self._read_split(paths.TRAIN_TENSORS)
        self.test = self._read_split(paths.TEST_TENSORS)

    def _read_split(self, path: Path) -> Split | str:
        try:
            split = read_split(path)
            self.card.check_fits(path, split)
        except DataError as error:
            hint = f" (or `dvc pull {path}`)" if not path.exists() else ""
            return f"{error}{hint}"
        return split

    def predict_image_file(self, content: bytes) -> ImagePrediction:
        """Preprocess an image file's content as the command `predict` does, and predict it.

        Raises:
            DataError: it is not an image that can be read.
        """
        with strict_warnings():
            try:
                image = self._preprocessor(content)
            except Exception as error:  # Pillow's decoders raise whatever they trip over
                raise DataError(one_line(error_cause(error))) from None
        pixels = np.frombuffer(image.pixels, np.uint8).reshape(self.card.input_shape)
        return self._predict(pixels, image)

    def predict_test_image(self, index: int) -> tuple[ImagePrediction, str]:
        """Predict a test image; return the prediction and the image's true class.

        Raises:
            DataError: there is no such image.
        """
        if isinstance(self.test, str):
            raise DataError(self.test)
        count = len(self.test.labels)
        if not 0 <= index < count:
            raise DataError(f"there is no test image {index}; give 0 to {count - 1}")
        label = self.card.data.class_names[int(self.test.labels[index])]
        return self._predict(self.test.images[index].numpy(), None), label

    def _predict(self, pixels: np.ndarray, image: Preprocessed | None) -> ImagePrediction:
        predictions = self._predictor.predict(pixels[None])
        names, probabilities = self.card.data.class_names, predictions.probabilities[0].tolist()
        by_name = dict(zip(names, probabilities, strict=True))
        mode = image.mode if image else "as-trained"
        doubts = find_doubts(
            mode,
            max(probabilities),
            unlike_training=bool(predictions.doubtful[0]),
            joined=image is not None and image.joined,
        )
        if image is None:
            return ImagePrediction(pixels, by_name, doubts, None)
        return ImagePrediction(pixels, by_name, image.doubts + doubts, mode, image.left_out)

    def predict_files(self, files: Sequence[str]) -> list[Prediction | ProcessedImage]:
        """Predict image files as the command `predict` does."""
        return list(predict_files(map(ImageInput, files), self._path, processes=1))
