"""JSON and CSV files with the same bytes on every machine: sorted keys, rounded floats."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_pipeline.common.files import atomic_write, write_bytes

if TYPE_CHECKING:
    import pandas as pd

DECIMALS = 6


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` with sorted keys and floats rounded to `DECIMALS` digits."""
    text = json.dumps(_rounded(values), indent=2, sort_keys=True, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write `table` without its index, floats with `DECIMALS` digits, lines ended by a newline."""
    write_csv_parts(path, [table])


def write_csv_parts(path: Path, tables: Iterable["pd.DataFrame"]) -> None:
    """Write tables of the same columns one below the other, each as it comes; see `write_csv`."""
    with atomic_write(path) as file:
        for number, table in enumerate(tables):
            text = table.to_csv(
                index=False,
                header=not number,
                float_format=f"%.{DECIMALS}f",
                lineterminator="\n",
            )
            file.write(text.encode())


def write_csv_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    """Write a table that needs no pandas, whose import takes longer than a short stage's work."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, text.getvalue().encode())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
