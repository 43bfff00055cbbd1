"""A comparison as text for a terminal, as Markdown for a pull request, and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple

from image_pipeline.common.errors import one_line
from image_pipeline.experiments.comparison import Comparison
from image_pipeline.experiments.significance import significant

MAX_CLASSES = 20  # in tables; JSON has all
MAX_CHANGES = 12  # of each kind
HEADER = ("", "A", "B", "B - A", "95% interval", "p")
CLASS_HEADER = ("class", "images", "errors A", "errors B", "only B", "only A", "p", "p (Holm)")
COUNTS, SHARES = ("errors",), ("accuracy",)
JSON_KEYS = {"only_b_correct": "won", "only_a_correct": "lost"}

Table = list[tuple[str, ...]]


def as_text(comparison: Comparison) -> str:
    """Format a comparison for a terminal."""
    parts = [
        f"A  {comparison.a}\nB  {comparison.b}",
        text_table([HEADER, *_metric_rows(comparison)]),
        "\n".join(_sentences(comparison)),
        _class_title(comparison),
        text_table([CLASS_HEADER, *_class_rows(comparison)]),
        "What else changed:\n" + "\n".join(f"  {line}" for line in _change_lines(comparison)),
    ]
    if comparison.notes:
        parts.append("\n".join(f"note: {note}" for note in comparison.notes))
    return "\n\n".join(parts)


def as_markdown(comparison: Comparison) -> str:
    """Format a comparison as GitHub Markdown."""
    parts = [
        f"### {escaped(comparison.b)} (B) against {escaped(comparison.a)} (A)",
        f"**{_sentences(comparison)[0]}**",
        markdown_table([HEADER, *_metric_rows(comparison)]),
        " ".join(_sentences(comparison)[1:]),
        "**What else changed**\n\n"
        + "\n".join(f"- {escaped(line)}" for line in _change_lines(comparison)),
        f"<details><summary>{_class_title(comparison)}</summary>\n\n"
        + markdown_table([CLASS_HEADER, *_class_rows(comparison)])
        + "\n\n</details>",
        "\n".join(f"> {escaped(note)}" for note in comparison.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def as_json(comparison: Comparison) -> str:
    """Format a comparison as JSON, with all values unrounded."""
    values = {
        "a": comparison.a,
        "b": comparison.b,
        "images": comparison.images,
        "b_finds": len(comparison.only_b_correct),
        "b_misses": len(comparison.only_a_correct),
        "p": comparison.metrics["accuracy"].p,
        "verdict": verdict(comparison),
        "images_needed": comparison.images_needed,
        "metrics": {
            name: {
                "a": metric.a,
                "b": metric.b,
                "difference": metric.difference,
                "interval_95": metric.interval,
                "p": metric.p,
            }
            for name, metric in comparison.metrics.items()
        },
        "classes": [
            {JSON_KEYS.get(key, key): value for key, value in asdict(each).items()}
            for each in comparison.classes
        ],
        "changed": {
            kind: [change._asdict() for change in found]
            for kind, found in comparison.changed.items()
        },
        "notes": comparison.notes,
    }
    return json.dumps(values, indent=2)


FORMATS = {"text": as_text, "markdown": as_markdown, "json": as_json}


def verdict(comparison: Comparison) -> str:
    """Return one sentence on whether the runs differ in accuracy."""
    only_a, only_b = len(comparison.only_a_correct), len(comparison.only_b_correct)
    images = f"{comparison.images:,} images"
    if not only_a + only_b:
        return f"A and B are right on the same images, of all {images}"
    counts = f"of {images}, only B gets {only_b:,} right and only A {only_a:,}"
    p = comparison.metrics["accuracy"].p
    found = f"{counts} (p {relation(p)})"
    if not significant(p):
        return f"No significant difference: {found}"
    return f"{'B' if only_b > only_a else 'A'} is significantly better: {found}"


def p_value(p: float | None) -> str:
    """Format a p value with two digits."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def relation(p: float | None) -> str:
    """Format a p value to follow the letter p: `= 0.57` or `< 0.0001`."""
    shown = p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"


def metric_value(name: str, number: float, sign: str = "", more: int = 0) -> str:
    """Format a metric.

    Args:
        name: of the metric, which may be dotted.
        number: the value.
        sign: "+" for a difference.
        more: digits beyond the usual number.
    """
    last = name.rpartition(".")[2]
    if last in SHARES:
        return f"{100 * number:{sign}.{2 + more}f}%"
    return f"{number:{sign},.{more}f}" if last in COUNTS else f"{number:{sign}.{4 + more}f}"


def text_table(table: Sequence[tuple[str, ...]]) -> str:
    """Format a table for a terminal: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def markdown_table(table: Sequence[tuple[str, ...]]) -> str:
    """Format a table as GitHub Markdown."""
    rows = [f"| {' | '.join(map(escaped, row))} |" for row in table]
    rule = "|".join(["---", *["---:"] * (len(table[0]) - 1)])
    return "\n".join([rows[0], f"|{rule}|", *rows[1:]])


def escaped(text: str) -> str:
    """Escape text, such as the name of a branch or a class, so that GitHub shows it literally."""
    shown = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~@" else letter for letter in text)
    return " ".join(shown.split())


def _sentences(comparison: Comparison) -> list[str]:
    sentences = [f"{verdict(comparison)}."]
    if comparison.images_needed is not None:
        difference = len(comparison.only_b_correct) - len(comparison.only_a_correct)
        points = 100 * abs(difference) / comparison.images
        sentences.append(
            f"Detecting a difference of this size ({points:.2g} points) with 80% power takes "
            f"{_rounded(comparison.images_needed)} test images."
        )
    return sentences


def _rounded(count: int) -> str:
    """Return a count rounded up to three digits."""
    step = 10 ** max(0, len(str(count)) - 3)
    return f"{'' if step == 1 else 'about '}{-(-count // step) * step:,}"


def _metric_rows(comparison: Comparison) -> Table:
    rows: Table = []
    for name, metric in comparison.metrics.items():
        edges = (metric_value(name, edge, "+") for edge in metric.interval or ())
        rows.append(
            (
                name.replace("_", " "),
                metric_value(name, metric.a),
                metric_value(name, metric.b),
                metric_value(name, metric.difference, "+"),
                " to ".join(edges) or "-",
                p_value(metric.p),
            )
        )
    return rows


def _class_title(comparison: Comparison) -> str:
    differ = sum(significant(each.p_holm) for each in comparison.classes)
    number = len(comparison.classes)
    found = f"{differ} of {number} classes differ" if differ else "No class differs"
    shown = "" if number <= MAX_CLASSES else f" (the {MAX_CLASSES} that differ most are shown)"
    return f"{found} significantly, with Holm's correction for {number} classes{shown}"


def _class_rows(comparison: Comparison) -> Table:
    """Return the classes in order, or those that differ most if there are too many to show."""
    rows: Table = []
    classes = comparison.classes
    if len(classes) > MAX_CLASSES:
        classes = sorted(classes, key=lambda each: each.p)[:MAX_CLASSES]
    for each in classes:
        name, *counts, p, p_holm = astuple(each)
        shown = (*(f"{count:,}" for count in counts), p_value(p), p_value(p_holm))
        rows.append((one_line(name, 24), *shown))
    return rows


def _change_lines(comparison: Comparison) -> list[str]:
    lines = []
    for kind, found in comparison.changed.items():
        shown = [
            one_line(f"{name}: {first} -> {second}" if first + second else name, 120)
            for name, first, second in found
        ]
        if len(shown) > MAX_CHANGES:
            shown[MAX_CHANGES:] = [f"and {len(shown) - MAX_CHANGES} more"]
        lines += [f"{kind:11}  {change}" for change in shown]
    return lines or ["nothing that dvc.lock records"]
