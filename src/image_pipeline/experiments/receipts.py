"""Two receipts of a training, compared without running anything: where do the runs part?

`image_pipeline.training.receipt` says what a receipt holds. Its sections are compared in the order
in which they were computed, and so are the lines of each.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.experiments.changes import diff, flatten

INPUTS = ("params", "inputs")
COMPUTED = {  # in this order, and what is said of a line of it
    "initial_weights": "train: the initial {name} is the first tensor that differs",
    "first_step": "train, epoch 1, step 1: the {name} is the first tensor that differs",
    "epochs": "train, {name}: the weights at its end are the first that differ",
    "final_weights": "train, after the last epoch: {name} is the first tensor that differs",
}

Receipt = dict[str, list[str]]


def read_receipt(name: str, content: bytes) -> Receipt:
    """Parse a receipt, which may be a stranger's.

    Args:
        name: of the file, for messages.
        content: of the file.

    Raises:
        DataError: it is not a receipt.
    """
    try:
        receipt = json.loads(content)
        for section in (*INPUTS, *COMPUTED):
            if not all(isinstance(line, str) and ": " in line for line in receipt[section]):
                raise ValueError(f"`{section}` has a line without a name")
        params_of(receipt)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        kind = type(error).__name__
        raise DataError(
            f"{name}: not a receipt of a training ({kind}: {one_line(error)}); give a "
            f"{paths.RECEIPT} that the train stage of this version has written"
        ) from None
    return receipt  # type: ignore[no-any-return]


def input_differences(
    own: Receipt, other: Receipt, stages: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the params and files of data that differ, and how.

    Args:
        own: this project's receipt.
        other: the one to compare it with.
        stages: of this project's dvc.lock, which name the stage that wrote a file.
    """
    for key, here, there in diff(params_of(own), params_of(other)):
        yield key, f"{here} here, {there} there"
    files = [dict(line.rsplit(": ", 1) for line in each["inputs"]) for each in (own, other)]
    for path, here, there in diff(*files):
        yield path, f"{here} here, {there} there{_written_by(path, stages)}"


def first_divergence(own: Receipt, other: Receipt) -> str | None:
    """Describe the first thing computed that differs; None if all is the same."""
    for section, said in COMPUTED.items():
        pairs = list(zip_longest(own[section], other[section], fillvalue="nothing: "))
        for same, pair in enumerate(pairs):
            if pair[0] != pair[1]:
                here, there = (one_line(line.rpartition(": ")[0]) for line in pair)
                name = here if here == there else f"{here} here and {there} there"
                count = f"{same} of {len(pairs)} before it are the same"
                return f"{said.format(name=name)}; {count}"
    return None


def params_of(receipt: Receipt) -> dict[str, Any]:
    """Return the params of a receipt by dotted key."""
    blocks = (line.split(": ", 1) for line in receipt["params"])
    return flatten({key: json.loads(value) for key, value in blocks})


def _written_by(path: str, stages: Mapping[str, Any]) -> str:
    """Say which stage's output a file is, or is in."""
    for name, stage in stages.items():
        if any(Path(path).is_relative_to(out["path"]) for out in stage.get("outs", [])):
            return f"; an output of {name}"
    return ""
