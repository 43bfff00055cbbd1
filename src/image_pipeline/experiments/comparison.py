"""The comparison of two runs: every metric, every class, and what else changed."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.experiments.bootstrap import ModelPredictions, bootstrap
from image_pipeline.experiments.changes import Change, changes, params_not_run
from image_pipeline.experiments.results import MIN_PROBABILITY, Results
from image_pipeline.experiments.significance import (
    Metric,
    accuracy_interval,
    holm,
    images_needed,
    mcnemar,
)

BINS = "calibration_bins"
ROUNDING_ERROR = 2e-6  # of the values in metrics/test.json, and of the probabilities


@dataclass(frozen=True)
class ClassResult:
    """A class: its test images, the errors of both runs, and p values, raw and Holm-adjusted."""

    name: str
    images: int
    errors_a: int
    errors_b: int
    only_b_correct: int
    only_a_correct: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """Everything that `compare` reports.

    Attributes:
        a, b: the revisions as text.
        images: number of test images.
        only_a_correct, only_b_correct: the rows of the images that one run alone gets right, int64.
        metrics: by name, in the order in which they are shown.
        classes: those with test images, in the order of the metrics table.
        images_needed: to detect a difference of this size; None if there is no difference.
        changed: what else differs, by kind.
        notes: caveats.
    """

    a: str
    b: str
    images: int
    only_a_correct: np.ndarray
    only_b_correct: np.ndarray
    metrics: dict[str, Metric]
    classes: list[ClassResult]
    images_needed: int | None
    changed: dict[str, list[Change]]
    notes: list[str]


def compare(a: Results, b: Results) -> Comparison:
    """Compare two runs image by image.

    Raises:
        DataError: they were tested on different images.
    """
    check_same_images(a, b)
    names = list(dict.fromkeys([*a.class_names, *b.class_names]))
    class_index = {name: index for index, name in enumerate(names)}

    def indices(column: np.ndarray) -> np.ndarray:
        return np.array([class_index[name] for name in column.tolist()])

    actual = indices(a.predictions.actual)
    models = [
        ModelPredictions(
            indices(each.predictions.predicted), each.predictions.confidence, each.loss
        )
        for each in (a, b)
    ]
    correct_a, correct_b = (model.predicted == actual for model in models)
    only_a, only_b = np.flatnonzero(correct_a & ~correct_b), np.flatnonzero(correct_b & ~correct_a)
    images, counts = len(actual), (len(only_a), len(only_b))
    low, high = accuracy_interval(*counts, images)
    p = mcnemar(*counts)
    losses = [float(results.metrics.get("loss", math.nan)) for results in (a, b)]
    bins, bins_b = _calibration_bins(a), _calibration_bins(b)
    notes = []
    if bins != bins_b:
        notes.append(f"calibration error: both with A's {bins} bins; B was evaluated with {bins_b}")
    metrics = {
        "accuracy": Metric(float(correct_a.mean()), float(correct_b.mean()), (low, high), p),
        "errors": Metric(
            int((~correct_a).sum()), int((~correct_b).sum()), (-high * images, -low * images), p
        ),
        "loss": Metric(losses[0], losses[1], None, None),  # unless it can be bootstrapped
    }
    for letter, results in (("A", a), ("B", b)):
        notes += _notes(letter, results)
    return Comparison(
        a=str(a.revision),
        b=str(b.revision),
        images=images,
        only_a_correct=only_a,
        only_b_correct=only_b,
        metrics=metrics | bootstrap(actual, models[0], models[1], len(names), bins),
        classes=_classes(names, actual, correct_a, correct_b),
        images_needed=images_needed(*counts, images),
        changed=changes(a, b),
        notes=notes,
    )


def check_same_images(a: Results, b: Results) -> None:
    """Check that both runs were tested on the same images, in the same order.

    Raises:
        DataError: they were not.
    """
    hashes = [results.hash_of(paths.TEST_TENSORS) for results in (a, b)]
    counts = [len(results.predictions.actual) for results in (a, b)]
    if None not in hashes and hashes[0] != hashes[1]:
        short = [str(digest)[:7] for digest in hashes]
        reason = f"{paths.TEST_TENSORS} is {short[0]} in one dvc.lock and {short[1]} in the other"
    elif counts[0] != counts[1]:
        reason = f"{counts[0]} rows of {paths.PREDICTIONS} in one and {counts[1]} in the other"
    else:
        first, second = a.predictions.actual, b.predictions.actual
        different = np.flatnonzero(first != second)
        if not len(different):
            return
        row = int(different[0])
        shown = [one_line(repr(str(column[row])), 40) for column in (first, second)]
        reason = f"row {row + 1} of {paths.PREDICTIONS} is of class {shown[0]} and {shown[1]}"
    raise DataError(
        f"{a.revision} and {b.revision} have different test splits ({reason}), so their images "
        "cannot be paired; compare runs with the same `download` and `tensorize` settings"
    )


def _classes(
    names: list[str], actual: np.ndarray, correct_a: np.ndarray, correct_b: np.ndarray
) -> list[ClassResult]:
    def per_class(mask: np.ndarray) -> list[int]:
        counts: list[int] = np.bincount(actual[mask], minlength=len(names)).tolist()
        return counts

    images = per_class(np.full(len(actual), True))
    errors_a, errors_b = per_class(~correct_a), per_class(~correct_b)
    only_a, only_b = per_class(correct_a & ~correct_b), per_class(correct_b & ~correct_a)
    kept = [number for number in range(len(names)) if images[number]]
    p_values = [mcnemar(only_a[number], only_b[number]) for number in kept]
    return [
        ClassResult(names[i], images[i], errors_a[i], errors_b[i], only_b[i], only_a[i], p, p_holm)
        for i, p, p_holm in zip(kept, p_values, holm(p_values), strict=True)
    ]


def _calibration_bins(results: Results) -> int:
    locked = results.lock.get("evaluate", {}).get("params", {}).get(paths.PARAMS.as_posix(), {})
    bins = locked.get(f"evaluate.{BINS}", results.params.get("evaluate", {}).get(BINS))
    if not isinstance(bins, int) or bins < 1:
        raise DataError(
            f"evaluate.{BINS}: not in the dvc.lock of {results.revision}; run `dvc repro` there"
        )
    return bins


def _notes(letter: str, results: Results) -> list[str]:
    notes, predictions = [], results.predictions
    errors = int((predictions.actual != predictions.predicted).sum())
    if not_run := params_not_run(results):
        key, locked, current = not_run[0]
        more = f" (and {len(not_run) - 1} more)" if len(not_run) > 1 else ""
        notes.append(
            f"{letter}: the results are from {key} = {locked}, but params.yaml has {current}{more};"
            " run `dvc repro` to update them"
        )
    recorded = results.metrics.get("errors", errors)
    if recorded != errors:
        notes.append(
            f"{letter}: {paths.TEST_METRICS} has {recorded} errors, {paths.PREDICTIONS} {errors}; "
            "they are from different runs"
        )
    loss = results.loss
    if loss is None:
        notes.append(
            f"{letter}: its {paths.PREDICTIONS} has no probability of the actual class, so the "
            f"loss is from {paths.TEST_METRICS}, without interval and p value"
        )
    elif clipped := int((loss >= -math.log(MIN_PROBABILITY)).sum()):
        exact: Any = results.metrics.get("loss", math.nan)
        if abs(exact - loss.mean()) > ROUNDING_ERROR:
            notes.append(
                f"{letter}: {clipped} images whose class has a probability below 0.000001 count as "
                f"0.0000005; without that rounding its loss is {exact:.6f}"
            )
    return notes
