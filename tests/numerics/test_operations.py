"""The list of operations with the same bits is what the cases show.

That other processors compute them alike is shown in pipeline/test_networks.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from image_pipeline.numerics.portability import NOTHING, OPERATIONS, read_operations
from numerics import cases
from project import ROOT


@pytest.fixture(scope="module")
def native() -> list[dict[str, Any]]:
    """Return the lines that the cases print, computed by a process of their own: it is pinned."""
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


def test_every_entry_is_seen_by_its_evidence(native: list[dict[str, Any]]) -> None:
    seen: dict[str, dict[str, set[str]]] = {}
    for line in native:
        for operation, (types, _) in line["operations"].items():
            seen.setdefault(line["case"], {}).setdefault(operation, set()).update(types)
    for operation, proof in read_operations().items():
        assert operation in seen[proof.evidence], operation
        assert set(proof.types) <= seen[proof.evidence][operation], operation
        assert bool(proof.types) != (proof.computed_by == NOTHING), operation


def test_the_list_is_what_the_cases_show(native: list[dict[str, Any]]) -> None:
    assert OPERATIONS.read_text(encoding="utf-8") == cases.to_list(native)


def test_a_difference_is_found(native: list[dict[str, Any]]) -> None:
    other = json.loads(json.dumps(native))
    other[3]["operations"] = dict(other[3]["operations"])
    operation = next(iter(other[3]["operations"]))
    other[3]["operations"][operation][1] = "another hash"
    assert cases.differences(native, native) == []
    assert cases.differences(native, other) == [
        f"{operation} in the case {native[3]['case']!r} in {native[3]['type']}"
    ]
