"""`operations.csv` lists what the cases verify.

pipeline/test_networks.py tests that other processors compute the cases to the same bits.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from image_pipeline.numerics.portability import NOTHING, OPERATIONS, read_verified_ops
from numerics import cases
from project import ROOT


@pytest.fixture(scope="module")
def native() -> list[dict[str, Any]]:
    """Return the lines that the cases print, computed by a pinned process of their own."""
    script = Path(__file__).with_name("cases.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_row_is_covered_by_its_evidence(native: list[dict[str, Any]]) -> None:
    seen: dict[str, dict[str, set[str]]] = {}
    for line in native:
        for operation, (types, *_) in line["operations"].items():
            seen.setdefault(line["case"], {}).setdefault(operation, set()).update(types)
    for operation, verified in read_verified_ops().items():
        assert operation in seen[verified.evidence], operation
        assert set(verified.types) <= seen[verified.evidence][operation], operation
        assert bool(verified.types) != (verified.computed_by == NOTHING), operation


def test_the_list_is_what_the_cases_cover(native: list[dict[str, Any]]) -> None:
    on_arm = {name: set(row.on_arm) for name, row in read_verified_ops().items()}
    assert OPERATIONS.read_text(encoding="utf-8") == cases.to_list(native, on_arm)


def test_a_difference_is_found(native: list[dict[str, Any]]) -> None:
    other = json.loads(json.dumps(native))
    other[3]["operations"] = dict(other[3]["operations"])
    operation = next(iter(other[3]["operations"]))
    other[3]["operations"][operation][1] = "another hash"
    assert cases.differences(native, native) == []
    assert cases.differences(native, other) == [
        f"{operation} in the case {native[3]['case']!r} in {native[3]['type']}"
    ]
