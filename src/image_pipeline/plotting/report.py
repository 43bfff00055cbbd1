"""The pictures of the plot stage: what each is made from, and where it goes."""

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from image_pipeline import paths
from image_pipeline.augmentation import augment
from image_pipeline.errors import DataError
from image_pipeline.files import together
from image_pipeline.model_card import REMEDY, ModelCard
from image_pipeline.params import PlotParams
from image_pipeline.plotting.classification import (
    draw_confusion_matrix,
    draw_f1_by_class,
    draw_reliability,
)
from image_pipeline.plotting.images import draw_first_layer, draw_images
from image_pipeline.tensor_files import count_images, read_sample

FIRST_LAYER = "hidden.0.weight"


def draw_report(params: PlotParams) -> list[str]:
    """Draw every picture; return their file names.

    Raises:
        DataError: a table, the model or the tensors are missing or not what they should be.
    """
    predictions = _read_table(paths.PREDICTIONS, ["actual", "predicted", "confidence"])
    classes = _read_table(paths.CLASSES, ["class", "f1"])
    reliability = _read_table(paths.RELIABILITY, ["confidence", "accuracy", "images"])
    card, weights = _read_first_layer(paths.MODEL)
    gap = (reliability["accuracy"] - reliability["confidence"]).abs()
    error = float((gap * reliability["images"]).sum() / reliability["images"].sum())

    drawn = []

    def target(name: str) -> Path:
        drawn.append(name)
        return paths.PLOTS / name

    names = list(card.data.class_names)
    with together():
        draw_confusion_matrix(target("confusion_matrix.png"), predictions, names, params.dpi)
        draw_f1_by_class(target("f1_by_class.png"), classes, params.dpi)
        draw_reliability(target("reliability.png"), reliability, error, params.dpi)
        _draw_mistakes(target("worst_mistakes.png"), predictions, params)
        _draw_samples(target("training_sample.png"), card, params)
        draw_first_layer(target("first_layer.png"), weights, card.input_shape, params.dpi)
    return drawn


def _draw_mistakes(path: Path, predictions: pd.DataFrame, params: PlotParams) -> None:
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    worst = wrong.sort_values("confidence", ascending=False, kind="stable").head(params.mistakes)
    captions = [
        f"{row.actual} taken for\n{row.predicted} at {row.confidence:.1%}"
        for row in worst.itertuples()
    ]
    indices = [int(index) for index in worst.index]
    images, _ = read_sample(paths.TEST_TENSORS, indices)
    title = f"The most confident of {len(wrong)} mistakes in {len(predictions)} test images"
    draw_images(path, images, captions, title, params.dpi)


def _draw_samples(path: Path, card: ModelCard, params: PlotParams) -> None:
    rng = np.random.default_rng(params.seed)
    count = count_images(paths.TRAIN_TENSORS)
    chosen = rng.choice(count, size=min(params.samples, count), replace=False)
    images, labels = read_sample(paths.TRAIN_TENSORS, chosen.tolist())
    what = "Training images"
    if card.augmentation.enabled:
        # Each with a draw of its own, so that the picture shows the range of the changes.
        apart = card.augmentation.model_copy(update={"group_size": 1})
        images = augment(images, apart, rng)
        what += ", augmented"
    captions = [card.data.class_names[label] for label in labels]
    draw_images(path, images, captions, what, params.dpi)


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    remedy = "run `dvc repro --force evaluate` to make it anew"
    text = {"actual": str, "predicted": str, "class": str}
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro evaluate`") from None
    except (ValueError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{path}: not a table ({problem}); {remedy}") from None
    if missing := [column for column in columns if column not in table]:
        raise DataError(f"{path}: it has no column {', '.join(missing)}; {remedy}")
    numbers = [column for column in columns if column not in text]
    if not all(pd.api.types.is_numeric_dtype(table[column]) for column in numbers):
        raise DataError(f"{path}: {', '.join(numbers)} must be numbers; {remedy}")
    return table


def _read_first_layer(path: Path) -> tuple[ModelCard, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            card = ModelCard.from_metadata(path, file.metadata())
            weights = np.asarray(file.get_tensor(FIRST_LAYER))
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro train`") from None
    except SafetensorError as error:
        raise DataError(f"{path}: no valid model file ({error}); {REMEDY}") from None
    if weights.ndim != 2 or weights.shape[1] != np.prod(card.input_shape):
        raise DataError(f"{path}: its first layer does not fit its card; {REMEDY}")
    return card, weights
