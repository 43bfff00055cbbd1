"""All plots of the plot stage: their inputs, checked, and their files."""

from collections.abc import Iterable
from math import prod
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import nn

from image_pipeline.augmenting import custom
from image_pipeline.augmenting.augmentation import augment
from image_pipeline.augmenting.params import AugmentationParams
from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.common.files import atomic_group
from image_pipeline.modeling.model_card import REMEDY, ModelCard
from image_pipeline.modeling.model_file import read_model
from image_pipeline.plotting.balance import draw_class_balance
from image_pipeline.plotting.classification import (
    draw_confusion_matrix,
    draw_f1_by_class,
    draw_reliability,
)
from image_pipeline.plotting.curves import draw_curves
from image_pipeline.plotting.images import (
    MAX_CLASSES,
    class_grid,
    draw_classes,
    draw_first_layer,
    draw_images,
    draw_saliency,
)
from image_pipeline.plotting.labels import letters, short_names
from image_pipeline.plotting.params import PlotParams
from image_pipeline.plotting.saliency import saliency_map
from image_pipeline.tensorizing.data_report import FEW_IMAGES, SPLITS, describe_leak
from image_pipeline.tensors.tensor_files import Sample, read_labels, read_sample

MAX_NAME_LENGTH = 8  # of class names in a caption of two lines
MAX_SALIENCY_MAPS = 12
MAX_NUMBER = 1e15
# The columns that are read from each table, with their largest valid number; None: text.
TABLES: dict[Path, dict[str, float | None]] = {
    paths.PREDICTIONS: {"actual": None, "predicted": None, "confidence": 1},
    paths.CLASSES: {"class": None, "f1": 1},
    paths.RELIABILITY: {"confidence": 1, "accuracy": 1, "images": MAX_NUMBER},
    paths.CLASS_BALANCE: {"class": None, "split": None, "images": MAX_NUMBER},
    paths.DATA_TABLE: {"split": None, "images": MAX_NUMBER, "leaked": MAX_NUMBER},
    paths.HISTORY: dict.fromkeys(
        ("epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy"),
        MAX_NUMBER,
    ),
}


def draw_report(params: PlotParams) -> list[str]:
    """Draw all plots; return their file names.

    Raises:
        DataError: a table, the model or the tensors are missing or invalid.
    """
    tables = {path: _read_table(path, columns) for path, columns in TABLES.items()}
    model, card = read_model(paths.MODEL)
    names = list(card.data.class_names)
    _check_rows(tables, names)
    predictions, classes, reliability, balance, data, history = tables.values()
    counts = balance["images"].to_numpy(np.int64).reshape(-1, len(SPLITS)).T
    balances = dict(zip(SPLITS, counts, strict=True))
    leak = describe_leak(*data[["leaked", "images"]].to_numpy(int)[-1])
    gap = (reliability["accuracy"] - reliability["confidence"]).abs()
    error = float((gap * reliability["images"]).sum() / reliability["images"].sum())
    dpi = params.dpi

    drawn = []

    def target(name: str) -> Path:
        drawn.append(name)
        return paths.PLOTS / name

    with atomic_group():
        draw_curves(target("curves.png"), history, dpi=dpi)
        draw_confusion_matrix(target("confusion_matrix.png"), predictions, names, dpi)
        draw_f1_by_class(target("f1_by_class.png"), classes, dpi)
        draw_reliability(target("reliability.png"), reliability, error, dpi)
        _draw_mistakes(
            target("worst_mistakes.png"), target("saliency.png"), predictions, model, card, params
        )
        _draw_samples(target("training_sample.png"), card, params)
        draw_first_layer(target("first_layer.png"), _first_layer(model, card), dpi)
        draw_class_balance(target("class_balance.png"), balances, names, FEW_IMAGES, leak, dpi)
        _draw_classes(target("samples.png"), card, params)
    return drawn


def _draw_mistakes(
    path: Path,
    saliency_path: Path,
    predictions: pd.DataFrame,
    model: nn.Module,
    card: ModelCard,
    params: PlotParams,
) -> None:
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    worst = wrong.sort_values("confidence", ascending=False, kind="stable").head(params.mistakes)
    names = card.data.class_names
    short = dict(zip(names, short_names(names), strict=True))
    template = "{} taken for\n{} at {:.1%}"
    if max(map(letters, short.values())) > MAX_NAME_LENGTH:
        template = "{}\ntaken for\n{}\nat {:.1%}"
    captions = [
        template.format(short[actual], short[predicted], confidence)
        for actual, predicted, confidence in worst[[*TABLES[paths.PREDICTIONS]]].to_numpy()
    ]
    sample = _sample(paths.TEST_TENSORS, worst.index, card)
    title = f"The most confident of {len(wrong)} mistakes in {len(predictions)} test images"
    draw_images(path, sample.images, captions, title, params.dpi)

    images, found = sample.images[:MAX_SALIENCY_MAPS], []
    for image, predicted in zip(images, worst["predicted"], strict=False):
        found.append(saliency_map(model, image, names.index(predicted), card.data))
    maps = np.array([heat for heat, _ in found], np.float32).reshape(-1, *card.input_shape[1:])
    layers = {layer for _, layer in found} or {None}
    method = "HiResCAM of the layer {}".format(*layers) if layers != {None} else "gradient x input"
    title = f"Where it looked: red speaks for the class predicted\n({method})"
    draw_saliency(saliency_path, images, maps, captions[: len(maps)], title, params.dpi)


def _draw_classes(path: Path, card: ModelCard, params: PlotParams) -> None:
    names = card.data.class_names
    labels = read_labels(paths.TRAIN_TENSORS)
    rng = np.random.default_rng(params.seed)
    chosen = list(range(len(names)))
    title = "Training images of each class"
    if len(names) > MAX_CLASSES:
        chosen = sorted(rng.choice(len(names), MAX_CLASSES, replace=False).tolist())
        title = f"Training images of {MAX_CLASSES} of {len(names)} classes"
    _, per_class = class_grid(len(chosen), card.input_shape[1])
    samples = []
    for label in chosen:
        members = np.flatnonzero(labels == label)
        indices = rng.choice(members, min(per_class, len(members)), replace=False)
        samples.append(_sample(paths.TRAIN_TENSORS, indices, card).images)
    draw_classes(path, samples, [names[label] for label in chosen], title, params.dpi)


def _draw_samples(path: Path, card: ModelCard, params: PlotParams) -> None:
    rng = np.random.default_rng(params.seed)
    count = len(read_labels(paths.TRAIN_TENSORS))
    chosen = rng.choice(count, size=min(params.samples, count), replace=False)
    sample = _sample(paths.TRAIN_TENSORS, chosen, card)
    images = sample.images
    title = "Training images"
    try:  # one draw per image, to show the range of the augmentation
        augmentation = AugmentationParams.model_validate(
            {**card.augmentation, "images_per_draw": 1}
        )
    except ValidationError as error:
        reason = one_line(error.errors(include_url=False)[0]["msg"])
        raise DataError(f"{paths.MODEL}: invalid augmentation ({reason}); {REMEDY}") from None
    if augmentation.enabled:
        images = augment(images, augmentation, rng, None, card.data.mean)
        if augmentation.custom != "none":
            seed = (params.seed, len(images))
            images = custom.apply(custom.load(augmentation.custom), images, seed)
        title += ", augmented"
    names = short_names(card.data.class_names)
    captions = [names[label] for label in sample.labels]
    draw_images(path, images, captions, title, params.dpi)


def _sample(path: Path, indices: Iterable[int], card: ModelCard) -> Sample:
    sample = read_sample(path, [int(index) for index in indices])
    card.check_fits(path, sample)
    return sample


def _read_table(path: Path, columns: dict[str, float | None]) -> pd.DataFrame:
    types = {name: str if limit is None else float for name, limit in columns.items()}
    try:
        table = pd.read_csv(path, usecols=list(columns), dtype=types, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro {_stage_of(path)}`") from None
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise _bad(path, f"not a table of {', '.join(columns)} ({reason})") from None
    for name, limit in columns.items():
        low = -MAX_NUMBER if name.endswith("loss") else 0
        if limit is not None and not table[name].between(low, limit).all():
            raise _bad(path, f"{name} must be numbers from {low:g} to {limit:g}")
    return table


def _check_rows(tables: dict[Path, pd.DataFrame], names: list[str]) -> None:
    predictions, count = tables[paths.PREDICTIONS], len(read_labels(paths.TEST_TENSORS))
    if len(predictions) != count:
        reason = f"{len(predictions)} rows for the {count} images of {paths.TEST_TENSORS}"
        raise _bad(paths.PREDICTIONS, reason)
    if unknown := sorted({*predictions["actual"], *predictions["predicted"]} - {*names}):
        reason = f"{one_line(repr(unknown[0]), 40)} is not a class of {paths.MODEL}"
        raise _bad(paths.PREDICTIONS, reason)
    for path, expected in (
        (paths.CLASSES, [[name] for name in names]),
        (paths.CLASS_BALANCE, [[name, split] for name in names for split in SPLITS]),
        (paths.DATA_TABLE, [[split] for split in SPLITS]),
    ):
        text = [name for name, limit in TABLES[path].items() if limit is None]
        if tables[path][text].to_numpy().tolist() != expected:
            raise _bad(path, f"its rows do not match the classes of {paths.MODEL} and the splits")
    if not tables[paths.RELIABILITY]["images"].sum() > 0:
        raise _bad(paths.RELIABILITY, "no images in any bin")


def _stage_of(path: Path) -> str:
    if path == paths.HISTORY:
        return "train"
    return "tensorize" if path in (paths.CLASS_BALANCE, paths.DATA_TABLE) else "evaluate"


def _bad(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: {reason}; run `dvc repro --force {_stage_of(path)}` to recreate it")


def _first_layer(model: nn.Module, card: ModelCard) -> np.ndarray | None:
    """Return the first layer's weights, float32 `[units, C, H, W]`, if it has any."""
    if card.first_layer is None:
        return None
    tensor = model.state_dict().get(card.first_layer, torch.empty(0))
    weights: np.ndarray = tensor.numpy()
    if weights.shape[1:] == (prod(card.input_shape),):
        weights = weights.reshape(-1, *card.input_shape)
    if weights.ndim != 4 or weights.shape[1] != card.input_shape[0] or 0 in weights.shape:
        raise DataError(f"{paths.MODEL}: its first layer does not match its metadata; {REMEDY}")
    return weights
