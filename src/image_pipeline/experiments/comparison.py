"""Two runs held against one another: every metric, every class, and what changed besides."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.experiments.bootstrap import Judged, bootstrap
from image_pipeline.experiments.changes import Change, changes, not_yet_run
from image_pipeline.experiments.paired import (
    LEVEL,
    accuracy_interval,
    holm,
    images_needed,
    mcnemar,
)
from image_pipeline.experiments.results import FLOOR, Results

BINS = "calibration_bins"
ROUNDING = 2e-6  # of the values in metrics/test.json, and of the probabilities


@dataclass(frozen=True)
class Metric:
    """A metric of both runs; `difference` is B minus A, with its 95% interval and p value.

    The last two are None where a revision does not have what they need.
    """

    name: str
    a: float
    b: float
    interval: tuple[float, float] | None
    p: float | None

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.b - self.a


@dataclass(frozen=True)
class ClassResult:
    """A class: its test images, the errors among them, and the p value, without and with Holm's."""

    name: str
    images: int
    errors_a: int
    errors_b: int
    won: int
    lost: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` tells.

    Attributes:
        a, b: the revisions in words.
        images: in the test split.
        won, lost: the images (their rows) that only B, and only A, gets right, int64.
        metrics: as they are shown.
        classes: those with test images, in the order of the metrics' table.
        needed: images that would show a difference of this size; None if there is none to show.
        changed: what differs besides, by kind.
        notes: what the reader should know about the numbers.
    """

    a: str
    b: str
    images: int
    won: np.ndarray
    lost: np.ndarray
    metrics: list[Metric]
    classes: list[ClassResult]
    needed: int | None
    changed: dict[str, list[Change]]
    notes: list[str]

    @property
    def p(self) -> float:
        """McNemar's p value."""
        return mcnemar(len(self.won), len(self.lost))


def compare(a: Results, b: Results) -> Comparison:
    """Pair each test image with itself and compare two runs.

    Raises:
        DataError: they were tested on different images.
    """
    check_same_images(a, b)
    names = _names(a, b)
    position = {name: number for number, name in enumerate(names)}
    actual = a.actual(position)
    judged_a, judged_b = a.judged(position), b.judged(position)
    right_a, right_b = judged_a.predicted == actual, judged_b.predicted == actual
    won, lost = np.flatnonzero(right_b & ~right_a), np.flatnonzero(right_a & ~right_b)
    bins, notes = _bins(a, b)
    for letter, results in (("A", a), ("B", b)):
        notes += _notes(letter, results)
    return Comparison(
        a=str(a.revision),
        b=str(b.revision),
        images=len(actual),
        won=won,
        lost=lost,
        metrics=_metrics(a, b, actual, judged_a, judged_b, len(names), bins),
        classes=_classes(names, actual, right_a, right_b),
        needed=images_needed(len(won), len(lost), len(actual)),
        changed=changes(a, b),
        notes=notes,
    )


def check_same_images(a: Results, b: Results) -> None:
    """Make sure that both runs were tested on the same images, row by row.

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
        names = _names(a, b)
        position = {name: number for number, name in enumerate(names)}
        first, second = a.actual(position), b.actual(position)
        different = np.flatnonzero(first != second)
        if not len(different):
            return
        row = int(different[0])
        words = [one_line(repr(names[column[row]]), 40) for column in (first, second)]
        reason = f"row {row + 1} of {paths.PREDICTIONS} is of class {words[0]} and {words[1]}"
    raise DataError(
        f"{a.revision} and {b.revision} have different test splits ({reason}), so no image can be "
        "paired with itself; compare runs whose `download` and `tensorize` settings are the same"
    )


def _metrics(
    a: Results,
    b: Results,
    actual: np.ndarray,
    judged_a: Judged,
    judged_b: Judged,
    classes: int,
    bins: int,
) -> list[Metric]:
    right = [judged.predicted == actual for judged in (judged_a, judged_b)]
    won, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    images = len(actual)
    errors = [images - int(each.sum()) for each in right]
    low, high = accuracy_interval(won, lost, images)
    p = mcnemar(won, lost)
    estimates = bootstrap(actual, judged_a, judged_b, classes, bins)
    shares = [float(each.mean()) for each in right]
    found = [
        Metric("accuracy", shares[0], shares[1], (low, high), p),
        Metric("errors", errors[0], errors[1], (-high * images, -low * images), p),
    ]
    if "loss" not in estimates:
        recorded = [float(results.metrics.get("loss", math.nan)) for results in (a, b)]
        found.append(Metric("loss", recorded[0], recorded[1], None, None))
    for name in ("loss", "macro_f1", "expected_calibration_error"):
        if name in estimates:
            of = estimates[name]
            found.append(Metric(name, of.first, of.second, of.interval, of.p))
    return found


def _classes(
    names: list[str], actual: np.ndarray, right_a: np.ndarray, right_b: np.ndarray
) -> list[ClassResult]:
    def count(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(actual[chosen], minlength=len(names))

    images = np.bincount(actual, minlength=len(names)).tolist()
    wrong = [count(~right).tolist() for right in (right_a, right_b)]
    won, lost = count(right_b & ~right_a).tolist(), count(right_a & ~right_b).tolist()
    kept = [number for number in range(len(names)) if images[number]]
    p_values = [mcnemar(won[number], lost[number]) for number in kept]
    return [
        ClassResult(names[i], images[i], wrong[0][i], wrong[1][i], won[i], lost[i], p, adjusted)
        for i, p, adjusted in zip(kept, p_values, holm(p_values), strict=True)
    ]


def _names(a: Results, b: Results) -> list[str]:
    return list(dict.fromkeys([*a.class_names, *b.class_names]))


def _bins(a: Results, b: Results) -> tuple[int, list[str]]:
    """Return how many bins of confidence there are, and a note where the runs differ in that."""
    found = [_evaluated_with(results) for results in (a, b)]
    if found[0] == found[1]:
        return found[0], []
    return found[0], [
        f"calibration error: both with A's {found[0]} bins; B was evaluated with {found[1]}"
    ]


def _evaluated_with(results: Results) -> int:
    locked = results.lock.get("evaluate", {}).get("params", {}).get(paths.PARAMS.as_posix(), {})
    bins = locked.get(f"evaluate.{BINS}", results.params.get("evaluate", {}).get(BINS))
    if not isinstance(bins, int) or bins < 1:
        raise DataError(
            f"evaluate.{BINS}: not in the dvc.lock of {results.revision}; run `dvc repro` there"
        )
    return bins


def _notes(letter: str, results: Results) -> list[str]:
    notes, errors = [], results.predictions.errors
    if unrun := not_yet_run(results):
        key, ran, now = unrun[0]
        more = f" (and {len(unrun) - 1} more)" if len(unrun) > 1 else ""
        notes.append(
            f"{letter}: the results are of {key} = {ran}, params.yaml has {now}{more}; `dvc repro` "
            "would run it anew"
        )
    recorded = results.metrics.get("errors", errors)
    if recorded != errors:
        notes.append(
            f"{letter}: {paths.TEST_METRICS} has {recorded} errors, {paths.PREDICTIONS} {errors}; "
            "they are not of one run"
        )
    loss = results.loss
    if loss is None:
        notes.append(
            f"{letter}: its {paths.PREDICTIONS} has no probability of the actual class, so the "
            f"loss is that of {paths.TEST_METRICS}, without interval and p value"
        )
    elif floored := int((loss >= -math.log(FLOOR)).sum()):
        exact: Any = results.metrics.get("loss", math.nan)
        if abs(exact - loss.mean()) > ROUNDING:
            notes.append(
                f"{letter}: {floored} images whose class has a probability below 0.000001 count as "
                f"0.0000005; without that rounding its loss is {exact:.6f}"
            )
    return notes


def significant(p: float | None) -> bool:
    """Tell whether a p value is one of a difference at 5%."""
    return p is not None and p < LEVEL
