"""A comparison in words and tables: for a terminal, for a pull request, for a program."""

import json
from collections.abc import Sequence
from typing import Any

from image_pipeline.common.errors import one_line
from image_pipeline.experiments.comparison import ClassResult, Comparison, Metric, significant

MAX_CLASSES = 20  # in tables; JSON has all
MAX_CHANGES = 12  # of a kind
HEADER = ("", "A", "B", "B - A", "95% interval", "p")
CLASS_HEADER = ("class", "images", "errors A", "errors B", "B finds", "B misses", "p", "p (Holm)")
COUNTS, SHARES = ("errors",), ("accuracy",)

Table = list[tuple[str, ...]]


def as_text(comparison: Comparison) -> str:
    """Return what a terminal shows."""
    parts = [
        f"A  {comparison.a}\nB  {comparison.b}",
        aligned([HEADER, *_metric_rows(comparison)]),
        "\n".join(_sentences(comparison)),
        _class_title(comparison),
        aligned([CLASS_HEADER, *_class_rows(comparison)]),
        "What changed besides:\n" + "\n".join(f"  {line}" for line in _change_lines(comparison)),
    ]
    if comparison.notes:
        parts.append("\n".join(f"note: {note}" for note in comparison.notes))
    return "\n\n".join(parts)


def as_markdown(comparison: Comparison) -> str:
    """Return a part of a page of GitHub's Markdown."""
    parts = [
        f"### {escaped(comparison.b)} (B) against {escaped(comparison.a)} (A)",
        f"**{_sentences(comparison)[0]}**",
        piped([HEADER, *_metric_rows(comparison)]),
        " ".join(_sentences(comparison)[1:]),
        "**What changed besides**\n\n"
        + "\n".join(f"- {escaped(line)}" for line in _change_lines(comparison)),
        f"<details><summary>{_class_title(comparison)}</summary>\n\n"
        + piped([CLASS_HEADER, *_class_rows(comparison)])
        + "\n\n</details>",
        "\n".join(f"> {escaped(note)}" for note in comparison.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def as_json(comparison: Comparison) -> str:
    """Return all of it, unrounded, as JSON."""
    values = {
        "a": comparison.a,
        "b": comparison.b,
        "images": comparison.images,
        "b_finds": len(comparison.won),
        "b_misses": len(comparison.lost),
        "p": comparison.p,
        "verdict": verdict(comparison),
        "images_needed": comparison.needed,
        "metrics": {metric.name: _metric_values(metric) for metric in comparison.metrics},
        "classes": [each.__dict__ for each in comparison.classes],
        "changed": {
            kind: [change._asdict() for change in found]
            for kind, found in comparison.changed.items()
        },
        "notes": comparison.notes,
    }
    return json.dumps(values, indent=2)


def verdict(comparison: Comparison) -> str:
    """Return the one sentence that says whether the runs differ in accuracy."""
    won, lost, images = len(comparison.won), len(comparison.lost), f"{comparison.images:,}"
    if not won + lost:
        return f"A and B are right and wrong on the same of all {images} images"
    found = f"B finds {_counted(won)} that A missed and misses {lost:,} that A found: "
    p = f"(p {relation(comparison.p)})"
    if not significant(comparison.p):
        return f"{found}no difference that {images} images could show {p}"
    better = "B" if won > lost else "A"
    return f"{found}{better} is better, by more than chance among {images} images {p}"


def p_value(p: float | None) -> str:
    """Return a p value with two digits."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def relation(p: float | None) -> str:
    """Return a p value with its sign before it."""
    shown = p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"


def _sentences(comparison: Comparison) -> list[str]:
    sentences = [f"{verdict(comparison)}."]
    if comparison.needed is not None:
        share = abs(len(comparison.won) - len(comparison.lost)) / comparison.images
        sentences.append(
            f"To show a difference of this size ({100 * share:.2g} points) four times in five "
            f"takes {_rounded(comparison.needed)} test images."
        )
    return sentences


def _counted(count: int) -> str:
    return f"{count:,} image" if count == 1 else f"{count:,} images"


def _rounded(count: int) -> str:
    """Return a count with three digits, as nobody collects images more exactly than that."""
    step = 10 ** max(0, len(str(count)) - 3)
    return f"{'' if step == 1 else 'about '}{-(-count // step) * step:,}"


def _metric_rows(comparison: Comparison) -> Table:
    return [_metric_row(metric) for metric in comparison.metrics]


def _metric_row(metric: Metric) -> tuple[str, ...]:
    def value(number: float, sign: str = "") -> str:
        return figure(metric.name, number, sign)

    interval = "-"
    if metric.interval:
        interval = " to ".join(value(edge, "+") for edge in metric.interval)
    name = metric.name.replace("_", " ")
    difference = value(metric.difference, "+")
    return name, value(metric.a), value(metric.b), difference, interval, p_value(metric.p)


def figure(name: str, number: float, sign: str = "", more: int = 0) -> str:
    """Return a metric's value as it is shown.

    Args:
        name: of the metric, which may be a dotted one.
        number: the value.
        sign: "+" where it is a difference.
        more: digits beyond the usual ones.
    """
    last = name.rpartition(".")[2]
    if last in SHARES:
        return f"{100 * number:{sign}.{2 + more}f}%"
    return f"{number:{sign},.{more}f}" if last in COUNTS else f"{number:{sign}.{4 + more}f}"


def _metric_values(metric: Metric) -> dict[str, Any]:
    return {
        "a": metric.a,
        "b": metric.b,
        "difference": metric.difference,
        "interval_95": metric.interval,
        "p": metric.p,
    }


def _shown_classes(comparison: Comparison) -> list[ClassResult]:
    """Return the classes in their order, or, of very many, those that differ most."""
    if len(comparison.classes) <= MAX_CLASSES:
        return comparison.classes
    return sorted(comparison.classes, key=lambda each: each.p)[:MAX_CLASSES]


def _class_title(comparison: Comparison) -> str:
    certain = [each for each in comparison.classes if significant(each.p_holm)]
    number = len(comparison.classes)
    words = f"{len(certain)} of {number} classes differ" if certain else "No class differs"
    shown = "" if number <= MAX_CLASSES else f" (the {MAX_CLASSES} that differ most are shown)"
    return f"{words} by more than chance, with Holm's correction for {number} of them{shown}"


def _class_rows(comparison: Comparison) -> Table:
    return [
        (
            one_line(each.name, 24),
            *(f"{n:,}" for n in (each.images, each.errors_a, each.errors_b, each.won, each.lost)),
            p_value(each.p),
            p_value(each.p_holm),
        )
        for each in _shown_classes(comparison)
    ]


def _change_lines(comparison: Comparison) -> list[str]:
    lines = []
    for kind, found in comparison.changed.items():
        words = [
            one_line(f"{name}: {first} -> {second}" if first + second else name, 120)
            for name, first, second in found
        ]
        if len(words) > MAX_CHANGES:
            words[MAX_CHANGES:] = [f"and {len(words) - MAX_CHANGES} more"]
        lines += [f"{kind:11}  {word}" for word in words]
    return lines or ["nothing that dvc.lock records"]


def aligned(table: Sequence[tuple[str, ...]]) -> str:
    """Return a table for a terminal: words to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def piped(table: Sequence[tuple[str, ...]]) -> str:
    """Return a table of GitHub's Markdown."""
    rows = [f"| {' | '.join(map(escaped, row))} |" for row in table]
    rule = "|".join(["---", *["---:"] * (len(table[0]) - 1)])
    return "\n".join([rows[0], f"|{rule}|", *rows[1:]])


def escaped(text: str) -> str:
    """Return text that GitHub shows as it is, whatever a branch or a class is called."""
    shown = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~@" else letter for letter in text)
    return " ".join(shown.split())
