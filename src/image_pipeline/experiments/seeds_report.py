"""Repeated runs in words and tables: for a terminal, for a pull request, for a program."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from image_pipeline.experiments.comparison import significant
from image_pipeline.experiments.repeats import (
    Repeat,
    Spread,
    common_metrics,
    paired_p,
    spread,
    spreads,
)
from image_pipeline.experiments.report import Table, aligned, figure, p_value, piped, relation

SPREAD_HEADER = ("", "mean", "deviation", "95% interval of the mean", "least", "most")
PAIRED_HEADER = ("", "A", "B", "B - A", "95% interval", "deviation", "p")

Repeats = Mapping[int, Repeat]


def spread_as_text(repeats: Repeats) -> str:
    """Return what a terminal shows of one setting's runs."""
    return f"{_sentence(repeats)}\n\n{aligned([SPREAD_HEADER, *_spread_rows(repeats)])}"


def spread_as_markdown(repeats: Repeats) -> str:
    """Return a part of a page of GitHub's Markdown."""
    return f"**{_sentence(repeats)}**\n\n{piped([SPREAD_HEADER, *_spread_rows(repeats)])}"


def spread_as_json(repeats: Repeats) -> str:
    """Return all of it, unrounded, as JSON, with every run's own figures."""
    values = {
        "seeds": list(repeats),
        "metrics": {name: asdict(of) for name, of in spreads(list(repeats.values())).items()},
        "runs": {seed: repeat.metrics for seed, repeat in repeats.items()},
    }
    return json.dumps(values, indent=2)


@dataclass(frozen=True)
class Paired:
    """A metric of two settings, seed by seed.

    Attributes:
        a, b: the means.
        difference: how B minus A lies over the seeds.
        p: of Student's paired t test.
    """

    a: float
    b: float
    difference: Spread
    p: float


def pair(a: Repeats, b: Repeats) -> dict[str, Paired]:
    """Pair two settings by seed; both have the same seeds, two at least."""
    found = {}
    for name in common_metrics([*a.values(), *b.values()]):
        first = [a[seed].metrics[name] for seed in a]
        second = [b[seed].metrics[name] for seed in a]
        differences = [y - x for x, y in zip(first, second, strict=True)]
        found[name] = Paired(
            spread(first).mean, spread(second).mean, spread(differences), paired_p(differences)
        )
    return found


def paired_as_text(a: Repeats, b: Repeats) -> str:
    """Return what a terminal shows of two settings, seed by seed."""
    paired = pair(a, b)
    table = aligned([PAIRED_HEADER, *_paired_rows(paired)])
    return f"{table}\n\n{paired_verdict(paired, len(a))}."


def paired_as_markdown(a: Repeats, b: Repeats) -> str:
    """Return a part of a page of GitHub's Markdown."""
    paired = pair(a, b)
    table = piped([PAIRED_HEADER, *_paired_rows(paired)])
    return f"**{paired_verdict(paired, len(a))}.**\n\n{table}"


def paired_values(a: Repeats, b: Repeats) -> dict[str, Any]:
    """Return all of it, unrounded, for JSON."""
    paired = pair(a, b)
    return {
        "seeds": list(a),
        "verdict": paired_verdict(paired, len(a)),
        "metrics": {name: asdict(of) for name, of in paired.items()},
    }


def paired_verdict(paired: Mapping[str, Paired], seeds: int) -> str:
    """Return how much of the difference in accuracy is the settings', and how much the seed's."""
    accuracy = paired["accuracy"]
    difference = accuracy.difference
    own = figure("accuracy", difference.mean, "+").removesuffix("%")
    moves = figure("accuracy", difference.deviation or 0.0).removesuffix("%")
    p = f"(p {relation(accuracy.p)})"
    said = (
        f"over {seeds} seeds B - A is {own} points, and another seed moves that by {moves} points "
        "(standard deviation)"
    )
    if not significant(accuracy.p):
        return f"{said}: no difference that {seeds} seeds could show {p}"
    better = "B" if difference.mean > 0 else "A"
    return f"{said}: {better} is better, by more than the seeds' chance {p}"


def _sentence(repeats: Repeats) -> str:
    accuracy = spreads(list(repeats.values()))["accuracy"]
    mean, moves = figure("accuracy", accuracy.mean), figure("accuracy", accuracy.deviation or 0.0)
    return (
        f"{len(repeats)} seeds: test accuracy {mean}, and another seed moves it by "
        f"{moves.removesuffix('%')} points (standard deviation)"
    )


def _spread_rows(repeats: Repeats) -> Table:
    rows: Table = []
    for name, of in spreads(list(repeats.values())).items():
        edges = of.interval or (of.mean, of.mean)
        rows.append(
            (
                _words(name),
                figure(name, of.mean, more=1),
                figure(name, of.deviation or 0.0, more=1),
                " to ".join(figure(name, edge, more=1) for edge in edges),
                figure(name, of.least),
                figure(name, of.most),
            )
        )
    return rows


def _paired_rows(paired: Mapping[str, Paired]) -> Table:
    rows: Table = []
    for name, of in paired.items():
        edges = of.difference.interval or (of.difference.mean, of.difference.mean)
        rows.append(
            (
                _words(name),
                figure(name, of.a, more=1),
                figure(name, of.b, more=1),
                figure(name, of.difference.mean, "+", more=1),
                " to ".join(figure(name, edge, "+", more=1) for edge in edges),
                figure(name, of.difference.deviation or 0.0, more=1),
                p_value(of.p),
            )
        )
    return rows


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")
