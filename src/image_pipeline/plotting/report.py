"""The pictures of the plot stage: what each is made from, and where it goes."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.common.files import together
from image_pipeline.common.params import PlotParams
from image_pipeline.modeling.model_card import REMEDY, ModelCard
from image_pipeline.plotting.balance import draw_class_balance
from image_pipeline.plotting.classification import (
    draw_confusion_matrix,
    draw_f1_by_class,
    draw_reliability,
)
from image_pipeline.plotting.images import (
    MOST_CLASSES,
    class_grid,
    draw_classes,
    draw_first_layer,
    draw_images,
)
from image_pipeline.plotting.labels import short_names
from image_pipeline.tensorizing.data_report import BALANCE_COLUMNS, SPLITS, leak_in_words
from image_pipeline.tensors.tensor_files import count_images, open_tensors, read_labels, read_sample
from image_pipeline.training import custom
from image_pipeline.training.augmentation import augment

MADE_BY = {paths.CLASS_BALANCE: "tensorize", paths.DATA_METRICS: "tensorize"}  # else evaluate
TEXT_COLUMNS = {"actual": str, "predicted": str, "class": str, "split": str}
LONGEST_WORD = 8  # of a name in a caption that is to fit above an image
LARGEST = {"confidence": 1.0, "accuracy": 1.0, "f1": 1.0}  # the smallest value of all is 0


def draw_report(params: PlotParams) -> list[str]:
    """Draw every picture; return their file names.

    Raises:
        DataError: a table, the model or the tensors are missing or not what they should be.
    """
    predictions = _read_table(paths.PREDICTIONS, ["actual", "predicted", "confidence"])
    classes = _read_table(paths.CLASSES, ["class", "f1"])
    reliability = _read_table(paths.RELIABILITY, ["confidence", "accuracy", "images"])
    balance = _read_table(paths.CLASS_BALANCE, list(BALANCE_COLUMNS))
    few, leak = _read_report(paths.DATA_METRICS)
    card, weights = _read_first_layer(paths.MODEL)
    names = list(card.data.class_names)
    _check_tables(predictions, classes, reliability, names)
    counts = _images_by_split(balance, names)
    gap = (reliability["accuracy"] - reliability["confidence"]).abs()
    error = float((gap * reliability["images"]).sum() / reliability["images"].sum())

    drawn = []

    def target(name: str) -> Path:
        drawn.append(name)
        return paths.PLOTS / name

    with together():
        draw_confusion_matrix(target("confusion_matrix.png"), predictions, names, params.dpi)
        draw_f1_by_class(target("f1_by_class.png"), classes, params.dpi)
        draw_reliability(target("reliability.png"), reliability, error, params.dpi)
        _draw_mistakes(target("worst_mistakes.png"), predictions, card, params)
        _draw_samples(target("training_sample.png"), card, params)
        draw_first_layer(target("first_layer.png"), weights, params.dpi)
        draw_class_balance(target("class_balance.png"), counts, names, few, leak, params.dpi)
        _draw_classes(target("samples.png"), card, params)
    return drawn


def _draw_mistakes(
    path: Path, predictions: pd.DataFrame, card: ModelCard, params: PlotParams
) -> None:
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    worst = wrong.sort_values("confidence", ascending=False, kind="stable").head(params.mistakes)
    names = card.data.class_names
    short = dict(zip(names, short_names(names), strict=True))
    words = "{} taken for\n{} at {:.1%}"
    if max(map(len, short.values())) > LONGEST_WORD:
        words = "{}\ntaken for\n{}\nat {:.1%}"
    captions = [
        words.format(short[actual], short[predicted], confidence)
        for actual, predicted, confidence in zip(
            worst["actual"], worst["predicted"], worst["confidence"], strict=True
        )
    ]
    indices = [int(index) for index in worst.index]
    sample = read_sample(paths.TEST_TENSORS, indices)
    card.check_fits(paths.TEST_TENSORS, sample)
    title = f"The most confident of {len(wrong)} mistakes in {len(predictions)} test images"
    draw_images(path, sample.images, captions, title, params.dpi)


def _draw_classes(path: Path, card: ModelCard, params: PlotParams) -> None:
    names = card.data.class_names
    labels = read_labels(paths.TRAIN_TENSORS)
    rng = np.random.default_rng(params.seed)
    shown = list(range(len(names)))
    title = "Training images of each class"
    if len(names) > MOST_CLASSES:
        shown = sorted(rng.choice(len(names), MOST_CLASSES, replace=False).tolist())
        title = f"Training images of {MOST_CLASSES} of {len(names)} classes"
    _, most = class_grid(len(shown))
    samples = []
    for label in shown:
        members = np.flatnonzero(labels == label)
        chosen = rng.choice(members, min(most, len(members)), replace=False)
        sample = read_sample(paths.TRAIN_TENSORS, chosen.tolist())
        card.check_fits(paths.TRAIN_TENSORS, sample)
        samples.append(sample.images)
    draw_classes(path, samples, [names[label] for label in shown], title, params.dpi)


def _draw_samples(path: Path, card: ModelCard, params: PlotParams) -> None:
    rng = np.random.default_rng(params.seed)
    count = count_images(paths.TRAIN_TENSORS)
    chosen = rng.choice(count, size=min(params.samples, count), replace=False)
    sample = read_sample(paths.TRAIN_TENSORS, chosen.tolist())
    card.check_fits(paths.TRAIN_TENSORS, sample)
    images = sample.images
    what = "Training images"
    if card.augmentation.enabled:
        # Each with a draw of its own, so that the picture shows the range of the changes.
        apart = card.augmentation.model_copy(update={"group_size": 1})
        images = augment(images, apart, rng, None, card.data.mean)
        if apart.custom != "none":
            own_seed = (params.seed, len(images))
            images = custom.apply(custom.load(apart.custom), images, own_seed)
        what += ", augmented"
    names = short_names(card.data.class_names)
    captions = [names[label] for label in sample.labels]
    draw_images(path, images, captions, what, params.dpi)


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False)
    except FileNotFoundError:
        raise _not_found(path) from None
    except OSError as error:
        raise _bad(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, OverflowError) as error:
        raise _bad(path, f"not a table ({one_line(error)})") from None
    if missing := [column for column in columns if column not in table]:
        raise _bad(path, f"it has no column {', '.join(missing)}")
    if not isinstance(table.index, pd.RangeIndex) or table.empty:
        raise _bad(path, "it has no rows" if table.empty else "its rows are longer than its header")
    for column in columns:
        if column not in TEXT_COLUMNS:
            _check_numbers(path, table[column])
    return table


def _check_numbers(path: Path, column: pd.Series) -> None:
    largest = LARGEST.get(str(column.name), float("inf"))
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if not numeric or not (np.isfinite(column) & column.between(0, largest)).all():
        allowed = f"numbers from 0 to {largest:g}" if largest < float("inf") else "finite numbers"
        raise _bad(path, f"{column.name} must be {allowed} throughout")


def _not_found(path: Path) -> DataError:
    return DataError(f"{path}: not found; run `dvc repro {MADE_BY.get(path, 'evaluate')}`")


def _bad(path: Path, reason: str) -> DataError:
    stage = MADE_BY.get(path, "evaluate")
    return DataError(f"{path}: {reason}; run `dvc repro --force {stage}` to make it anew")


def _read_report(path: Path) -> tuple[int, str]:
    """Return below how many images there are few of a class, and how the test split leaks."""
    try:
        metrics = json.loads(path.read_bytes())
        return int(metrics["classes_with_few_images"]["fewer_than"]), leak_in_words(metrics)
    except FileNotFoundError:
        raise _not_found(path) from None
    except OSError as error:
        raise _bad(path, f"cannot be read ({error.strerror})") from None
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise _bad(path, f"not a report on the data ({one_line(repr(error))})") from None


def _images_by_split(balance: pd.DataFrame, names: list[str]) -> dict[str, np.ndarray]:
    """Return the images of each class, int64 `[classes]`, by split."""
    expected = [(name, split) for name in names for split in SPLITS]
    if list(zip(balance["class"], balance["split"], strict=True)) != expected:
        raise _bad(paths.CLASS_BALANCE, f"its classes are not those of {paths.MODEL}")
    images = balance["images"].to_numpy(np.int64).reshape(-1, len(SPLITS))
    return dict(zip(SPLITS, images.T, strict=True))


def _check_tables(
    predictions: pd.DataFrame, classes: pd.DataFrame, reliability: pd.DataFrame, names: list[str]
) -> None:
    count = count_images(paths.TEST_TENSORS)
    if len(predictions) != count:
        raise _bad(
            paths.PREDICTIONS,
            f"{len(predictions)} rows for the {count} images of {paths.TEST_TENSORS}",
        )
    for column in ("actual", "predicted"):
        unknown = predictions[column][~predictions[column].isin(names)]
        if len(unknown):
            name = one_line(repr(unknown.iloc[0]), 40)
            reason = f"{name} in row {unknown.index[0] + 1} is not a class of {paths.MODEL}"
            raise _bad(paths.PREDICTIONS, reason)
    if list(classes["class"]) != names:
        raise _bad(paths.CLASSES, f"its classes are not those of {paths.MODEL}")
    if not reliability["images"].sum() > 0:
        raise _bad(paths.RELIABILITY, "it counts no images")


def _read_first_layer(path: Path) -> tuple[ModelCard, np.ndarray | None]:
    """Read the card and the weights `[units, C, H, W]` of what sees the images first, if any."""
    with open_tensors(path, "numpy", "train") as file:
        card = ModelCard.from_metadata(path, file.metadata())
        if card.first_layer is None:
            return card, None
        weights = np.asarray(file.get_tensor(card.first_layer))
    channels, height, width = card.input_shape
    if weights.shape[1:] == (channels * height * width,):
        weights = weights.reshape(-1, *card.input_shape)
    if weights.ndim != 4 or weights.shape[1] != channels or 0 in weights.shape:
        raise DataError(f"{path}: its first layer does not fit its card; {REMEDY}")
    if weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise DataError(f"{path}: its first layer is not float32 and finite throughout; {REMEDY}")
    return card, weights
