"""Runs over several seeds as text for a terminal, as Markdown for a pull request, and as JSON."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from image_pipeline.experiments.report import (
    Table,
    escaped,
    markdown_table,
    metric_value,
    p_value,
    relation,
    text_table,
)
from image_pipeline.experiments.seed_runs import (
    SeedRun,
    Summary,
    common_metrics,
    half_width,
    paired_t_test,
    summarize,
)
from image_pipeline.experiments.significance import significant

SUMMARY_HEADER = ("", "mean", "std dev", "95% interval of the mean", "min", "max")
PAIRED_HEADER = ("", "A", "B", "B - A", "95% interval", "std dev", "p")

SeedRuns = Mapping[int, SeedRun]


@dataclass(frozen=True)
class Paired:
    """A metric of two settings, paired by seed.

    Attributes:
        a, b: the means.
        difference: B minus A over the seeds.
        p: of Student's paired t test.
    """

    a: float
    b: float
    difference: Summary
    p: float


def format_summary(runs: SeedRuns, form: str) -> str:
    """Format the runs of one configuration as "text", "markdown" or "json" (unrounded)."""
    first, *_ = runs.values()
    names = common_metrics(list(runs.values()))
    metrics = {
        name: summarize([run.metrics[name] for run in runs.values()], first.bounds[name])
        for name in names
    }
    if form == "json":
        values = {
            "seeds": list(runs),
            "metrics": {name: asdict(summary) for name, summary in metrics.items()},
            "runs": {seed: run.metrics for seed, run in runs.items()},
        }
        return json.dumps(values, indent=2)
    accuracy = metrics["accuracy"]
    sentence = (
        f"{len(runs)} seeds: test accuracy {metric_value('accuracy', accuracy.mean)} on average, "
        f"standard deviation {_points(accuracy.deviation)} points"
    )
    rows = [SUMMARY_HEADER, *(_summary_row(name, metrics[name]) for name in names)]
    note = _few_seeds(len(runs))
    if form == "markdown":
        return f"**{sentence}**\n\n{markdown_table(rows)}" + (f"\n\n> {note}" if note else "")
    return f"{sentence}\n\n{text_table(rows)}" + (f"\n\nnote: {note}" if note else "")


def format_paired(name_a: str, name_b: str, a: SeedRuns, b: SeedRuns, form: str) -> str:
    """Format two settings, paired by seed, as "text", "markdown" or "json" (unrounded).

    Both must have the same seeds, at least two.
    """
    metrics = _pair(a, b)
    verdict = _verdict(metrics["accuracy"], len(a))
    if form == "json":
        values = {
            "a": name_a,
            "b": name_b,
            "seeds": list(a),
            "verdict": verdict,
            "metrics": {name: asdict(paired) for name, paired in metrics.items()},
        }
        return json.dumps(values, indent=2)
    rows: Table = [PAIRED_HEADER, *(_paired_row(name, metrics[name]) for name in metrics)]
    note = _few_seeds(len(a))
    if form == "markdown":
        title = f"### {escaped(name_b)} (B) against {escaped(name_a)} (A)"
        text = f"{title}\n\n**{verdict}.**\n\n{markdown_table(rows)}"
        return text + (f"\n\n> {note}" if note else "")
    text = f"A  {name_a}\nB  {name_b}\n\n{text_table(rows)}\n\n{verdict}."
    return text + (f"\n\nnote: {note}" if note else "")


def _pair(a: SeedRuns, b: SeedRuns) -> dict[str, Paired]:
    found = {}
    for name in common_metrics([*a.values(), *b.values()]):
        first, second = ([runs[seed].metrics[name] for seed in a] for runs in (a, b))
        differences = [y - x for x, y in zip(first, second, strict=True)]
        means = summarize(first).mean, summarize(second).mean
        least, most = next(iter(a.values())).bounds[name]
        difference = summarize(differences, (least - most, most - least))
        found[name] = Paired(*means, difference, paired_t_test(differences))
    return found


def _verdict(accuracy: Paired, seeds: int) -> str:
    """Return one sentence on whether the settings differ by more than seeds do."""
    found = (
        f"B - A is {_points(accuracy.difference.mean, '+')} points over {seeds} seeds, standard "
        f"deviation {_points(accuracy.difference.deviation)} points (p {relation(accuracy.p)})"
    )
    if not significant(accuracy.p):
        return f"No significant difference: {found}"
    return f"{'B' if accuracy.difference.mean > 0 else 'A'} is significantly better: {found}"


def _few_seeds(count: int) -> str:
    """Return how well the mean is known from few seeds, and from more; empty if there are enough.

    Enough are those that tell it to one standard deviation. Fewer tell next to nothing, since they
    do not tell the deviation either.
    """
    enough = next(number for number in itertools.count(2) if half_width(number) <= 1)
    if count >= enough:
        return ""
    more = ", ".join(f"{half_width(number):.1f} with {number}" for number in (enough, 3 * enough))
    return (
        f"{count} seeds tell the mean to {half_width(count):.1f} standard deviations only (with "
        f"95% confidence); it is {more}"
    )


def _points(share: float, sign: str = "") -> str:
    """Format a difference of accuracies in percentage points."""
    return metric_value("accuracy", share, sign).removesuffix("%")


def _summary_row(name: str, summary: Summary) -> tuple[str, ...]:
    return (
        _label(name),
        metric_value(name, summary.mean, more=1),
        metric_value(name, summary.deviation, more=1),
        " to ".join(metric_value(name, edge, more=1) for edge in summary.interval),
        metric_value(name, summary.least),
        metric_value(name, summary.most),
    )


def _paired_row(name: str, paired: Paired) -> tuple[str, ...]:
    return (
        _label(name),
        metric_value(name, paired.a, more=1),
        metric_value(name, paired.b, more=1),
        metric_value(name, paired.difference.mean, "+", more=1),
        " to ".join(metric_value(name, edge, "+", more=1) for edge in paired.difference.interval),
        metric_value(name, paired.difference.deviation, more=1),
        p_value(paired.p),
    )


def _label(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")
