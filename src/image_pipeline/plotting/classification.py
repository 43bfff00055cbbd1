"""Confusion matrix, F1 scores by class, and reliability diagram."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator, PercentFormatter

from image_pipeline.plotting.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from image_pipeline.plotting.labels import (
    MAX_CLASSES,
    class_labels,
    class_rows,
    label_inches,
    note_left_out,
)

MAX_CELLS_WITH_NUMBERS = 400
INCHES_PER_CLASS = 0.45
MAX_CONFUSED = 40  # classes of the confusion matrix, if it cannot show all
FEW_ROWS = 20
RANGE_FOR_TENTHS = 0.005  # F1 scores over a smaller range need ticks closer than 0.1%


def draw_confusion_matrix(
    path: Path, predictions: pd.DataFrame, class_names: list[str], dpi: int
) -> None:
    """Draw how many images of each class were predicted as each class.

    Of more than MAX_CLASSES, those of the most frequent confusions are shown.
    """
    kind = pd.CategoricalDtype(class_names)
    actual, predicted = (
        predictions[name].astype(kind).cat.codes for name in ("actual", "predicted")
    )
    cells = actual.to_numpy(np.int64) * len(class_names) + predicted
    counts = np.bincount(cells, minlength=len(class_names) ** 2).reshape(len(class_names), -1)
    errors = int(counts.sum() - np.trace(counts))
    title = f"Confusion matrix: {errors} errors in {counts.sum()} test images"
    shown = np.arange(len(class_names))
    if len(class_names) > MAX_CLASSES:
        shown = _most_confused(counts)
        title += (
            f"\nThe {len(shown)} classes of the most frequent confusions; "
            f"{len(class_names) - len(shown)} of {len(class_names)} classes are left out"
        )
        counts = counts[np.ix_(shown, shown)]
    classes = len(shown)
    names = class_labels(class_names)
    labels = [names[label] for label in shown]
    side = min(max(6.0, classes * INCHES_PER_CLASS + 2), 30.0) + label_inches(labels)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    axes.grid(visible=False)
    # Logarithmic: on a linear scale the diagonal would hide the errors.
    visible = np.ma.masked_equal(counts, 0)
    image = axes.imshow(visible, cmap="cividis_r", norm=LogNorm(1, max(2, counts.max())))
    figure.colorbar(image, label="images", shrink=0.8)
    if classes * classes <= MAX_CELLS_WITH_NUMBERS:
        bright = np.sqrt(counts.max())
        for row, column in zip(*np.nonzero(counts), strict=True):
            count = counts[row, column]
            colour = "white" if count > bright else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    ticks = range(classes)
    rotation = 90 if max(map(len, labels)) > 2 else 0
    axes.set_xticks(ticks, labels, rotation=rotation)
    axes.set_yticks(ticks, labels)
    axes.set(
        title=title,
        xlabel="predicted class",
        ylabel="actual class",
    )
    save_figure(path, figure, dpi)


def _most_confused(counts: np.ndarray) -> np.ndarray:
    """Return the MAX_CONFUSED classes, sorted, of the pairs that are most often confused.

    Args:
        counts: the confusion matrix `[classes, classes]`.
    """
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[: MAX_CONFUSED**2]
    classes = np.stack(np.unravel_index(pairs, wrong.shape), axis=1).ravel().tolist()
    return np.sort(list(dict.fromkeys(classes))[:MAX_CONFUSED])


def draw_f1_by_class(path: Path, classes: pd.DataFrame, dpi: int) -> None:
    """Draw the F1 score of each class and their mean; of more than MAX_CLASSES the worst and best.

    Args:
        path: of the PNG.
        classes: a row for each, with `class` and `f1`.
        dpi: pixels per inch.
    """
    total, mean = len(classes), classes["f1"].mean()
    shown, rows = class_rows(classes["f1"].to_numpy())
    names = class_labels(classes["class"].tolist())
    labels = [names[label] for label in shown]
    classes = classes.iloc[shown]
    width = 7 + label_inches(labels)
    figure = new_figure(width, min(max(3.0, 0.34 * len(classes) + 1.2), 40.0))
    axes = figure.subplots()
    scores = classes["f1"].to_numpy()
    axes.grid(visible=False, axis="y")
    axes.hlines(rows, scores.min() - 1, scores, color="#BBBBBB", linewidth=1.5)
    axes.plot(scores, rows, "o", color=BLUE, markersize=8)
    for row, score in zip(rows, scores, strict=True):
        axes.annotate(
            f"{score:.2%}",
            (score, row),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.axvline(mean, color=ORANGE, linestyle="--")
    spread = max(0.002, scores.max() - scores.min())
    axes.set_xlim(scores.min() - 0.15 * spread, scores.max() + 0.3 * spread)
    axes.set_yticks(rows, labels)
    axes.invert_yaxis()
    note_left_out(axes, total, len(shown))
    if len(rows) > FEW_ROWS:
        axes.margins(y=0.5 / len(rows))  # matplotlib's default margin would be several rows high
    decimals = 1
    if spread < RANGE_FOR_TENTHS:
        decimals = 2
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))
    axes.set(
        title=f"F1 score by class, test split (dashed: their mean, {mean:.2%})",
        xlabel="F1 score",
        ylabel="class",
    )
    save_figure(path, figure, dpi)


def draw_reliability(path: Path, reliability: pd.DataFrame, error: float, dpi: int) -> None:
    """Draw the reliability diagram (accuracy against confidence) and a histogram of confidence."""
    figure = new_figure(6, 6)
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence, accuracy = reliability["confidence"], reliability["accuracy"]
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1.5, label="perfect calibration")
    axes.plot(confidence, accuracy, "o-", color=BLUE, label="model")
    axes.set(
        title=f"Reliability, test split: expected calibration error {error:.2%}",
        ylabel="accuracy",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="upper left")
    histogram.vlines(confidence, 0.5, reliability["images"], color=ORANGE, linewidth=8)
    histogram.set(xlabel="confidence", ylabel="images", yscale="log", ylim=(0.5, None))
    histogram.xaxis.set_major_formatter(PercentFormatter(1.0))
    save_figure(path, figure, dpi)
