"""Predictions in lines: a table to read, CSV and JSON for programs."""

import csv
import io
import json
from collections.abc import Callable
from typing import Literal

from image_pipeline.common.errors import one_line
from image_pipeline.prediction.streaming import Prediction
from image_pipeline.serialization import DECIMALS

Form = Literal["table", "csv", "json"]

COLUMNS = (
    "image",
    "class",
    "probability",
    "runner_up",
    "runner_up_probability",
    "doubtful",
    "prepared",
)
WIDEST = 30  # letters of a class's name in the table
MAX_NAME_LENGTH = 1 << 12  # letters of a file's
SHARE = len("probability")
DOUBTFUL = "doubtful"


def writer_of(form: Form, class_names: tuple[str, ...]) -> tuple[str, Callable[[Prediction], str]]:
    """Return the first line, empty if there is none, and what makes a prediction's line."""
    if form == "json":
        return "", _json
    if form == "csv":
        return ",".join(COLUMNS), _csv
    width = max(len("runner-up"), *(len(_word(name)) for name in class_names))

    def line(first: str, share: str, second: str, other: str, doubt: str, name: str) -> str:
        columns = f"{first:{width}}  {share:>{SHARE}}  {second:{width}}  {other:>{SHARE}}"
        return f"{columns}  {doubt:{len(DOUBTFUL)}}  {name}"

    def row(prediction: Prediction) -> str:
        return line(
            _word(prediction.class_name),
            f"{prediction.probability:.2%}",
            _word(prediction.runner_up),
            f"{prediction.runner_up_probability:.2%}",
            DOUBTFUL if prediction.doubtful else "",
            one_line(prediction.image.source.name, MAX_NAME_LENGTH),
        )

    return line("class", "probability", "runner-up", "probability", "", "image"), row


def _word(name: str) -> str:
    return one_line(name, WIDEST)


def _values(prediction: Prediction) -> tuple[str | float | bool, ...]:
    return (
        prediction.image.source.name,
        prediction.class_name,
        round(prediction.probability, DECIMALS),
        prediction.runner_up,
        round(prediction.runner_up_probability, DECIMALS),
        prediction.doubtful,
        prediction.image.prepared,
    )


def _json(prediction: Prediction) -> str:
    return json.dumps(dict(zip(COLUMNS, _values(prediction), strict=True)))


def _csv(prediction: Prediction) -> str:
    text = io.StringIO()
    name, class_name, first, runner_up, second, doubtful, prepared = _values(prediction)
    shares = [f"{value:.{DECIMALS}f}" for value in (first, second)]
    row = (name, class_name, shares[0], runner_up, shares[1], str(doubtful).lower(), prepared)
    csv.writer(text, lineterminator="").writerow(row)
    return text.getvalue()
