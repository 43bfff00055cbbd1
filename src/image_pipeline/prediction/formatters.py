"""Predictions as text, one line per image: a table to read, CSV or JSON for programs."""

import csv
import io
import json
from collections.abc import Callable
from typing import Literal

from image_pipeline.common.errors import one_line
from image_pipeline.prediction.streaming import Prediction
from image_pipeline.serialization import DECIMALS

OutputFormat = Literal["table", "csv", "json"]

COLUMNS = (
    "image",
    "class",
    "probability",
    "runner_up",
    "runner_up_probability",
    "doubtful",
    "prepared",
    "doubts",
    "left_out",
)
MAX_CLASS_WIDTH = 30  # characters of a class name in the table
PROBABILITY_WIDTH = len("probability")
DOUBTFUL = "doubtful"


def make_formatter(
    output_format: OutputFormat, class_names: tuple[str, ...]
) -> tuple[str, Callable[[Prediction], str]]:
    """Return the header line, empty if there is none, and a function that formats a prediction."""
    if output_format == "json":
        return "", _format_json
    if output_format == "csv":
        return ",".join(COLUMNS), _format_csv
    width = max(len("runner-up"), *(len(_truncate(name)) for name in class_names))

    def line(first: str, probability: str, second: str, other: str, mark: str, name: str) -> str:
        best = f"{first:{width}}  {probability:>{PROBABILITY_WIDTH}}"
        runner_up = f"{second:{width}}  {other:>{PROBABILITY_WIDTH}}"
        return f"{best}  {runner_up}  {mark:{len(DOUBTFUL)}}  {name}"

    def row(prediction: Prediction) -> str:
        return line(
            _truncate(prediction.class_name),
            f"{prediction.probability:.2%}",
            _truncate(prediction.runner_up),
            f"{prediction.runner_up_probability:.2%}",
            DOUBTFUL if prediction.doubtful else "",
            prediction.image.input.display_name + _notes(prediction),
        )

    return line("class", "probability", "runner-up", "probability", "", "image"), row


def _notes(prediction: Prediction) -> str:
    notes = ", ".join(prediction.doubts)
    if prediction.image.left_out:
        notes += f"{'; ' if notes else ''}left out: {', '.join(prediction.image.left_out)}"
    return f"  ({notes})" if notes else ""


def _truncate(name: str) -> str:
    return one_line(name, MAX_CLASS_WIDTH)


def _values(prediction: Prediction) -> tuple[str | float | bool, ...]:
    return (
        prediction.image.input.name,
        prediction.class_name,
        round(prediction.probability, DECIMALS),
        prediction.runner_up,
        round(prediction.runner_up_probability, DECIMALS),
        prediction.doubtful,
        prediction.image.prepared,
        ", ".join(prediction.doubts),
        ", ".join(prediction.image.left_out),
    )


def _format_json(prediction: Prediction) -> str:
    return json.dumps(dict(zip(COLUMNS, _values(prediction), strict=True)))


def _format_csv(prediction: Prediction) -> str:
    text = io.StringIO()
    name, class_name, first, runner_up, second, doubtful, *words = _values(prediction)
    p1, p2 = (f"{value:.{DECIMALS}f}" for value in (first, second))
    row = (name, class_name, p1, runner_up, p2, str(doubtful).lower(), *words)
    csv.writer(text, lineterminator="").writerow(row)
    return text.getvalue()
