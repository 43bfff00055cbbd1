"""The list of operations with the same bits, proved here, natively and on emulated processors."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from image_pipeline.numerics.portability import NOTHING, OPERATIONS, read_operations
from project import ROOT, require

CASES = Path(__file__).with_name("cases.py")
# AMD's and Intel's, without AVX-512; the native one adds what it has beyond. Two others, of the
# same makers, train networks in pipeline/test_networks.py.
PROCESSORS = ("EPYC-Milan", "Haswell")


def compute(*prefix: str) -> list[dict[str, Any]]:
    """Return the lines that the cases print, computed by a process of their own."""
    done = subprocess.run(
        [*prefix, sys.executable, str(CASES)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    computed = done.stdout.splitlines()
    last = json.loads(computed[-1])["case"] if computed else "none"
    assert done.returncode == 0, f"after the case {last!r}: {done.stderr}"
    assert "could not take effect" not in done.stderr
    return [json.loads(line) for line in computed]


@pytest.fixture(scope="module")
def native() -> list[dict[str, Any]]:
    return compute()


def differences(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[str]:
    found = []
    for a, b in zip(one, other, strict=True):
        assert (a["case"], a["type"]) == (b["case"], b["type"])
        operations = a["operations"].keys() | b["operations"].keys()
        found += [
            f"{operation} in the case {a['case']!r} in {a['type']}"
            for operation in sorted(operations)
            if a["operations"].get(operation) != b["operations"].get(operation)
        ]
    return found


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
    from numerics import cases

    assert OPERATIONS.read_text(encoding="utf-8") == cases.to_list(native)


def test_emulated_processors_compute_the_same_bits(native: list[dict[str, Any]]) -> None:
    """Of every operation in every case; two at a time, a minute and more each on its own core."""
    qemu = shutil.which("qemu-x86_64")
    require(qemu, "qemu-x86_64")
    assert qemu is not None
    with ThreadPoolExecutor(2) as pool:
        emulated = pool.map(lambda name: compute(qemu, "-cpu", name), PROCESSORS)
        for processor, lines in zip(PROCESSORS, emulated, strict=True):
            assert differences(native, lines) == [], processor


def test_a_difference_is_found(native: list[dict[str, Any]]) -> None:
    other = json.loads(json.dumps(native))
    other[3]["operations"] = dict(other[3]["operations"])
    operation = next(iter(other[3]["operations"]))
    other[3]["operations"][operation][1] = "another hash"
    assert differences(native, native) == []
    assert differences(native, other) == [
        f"{operation} in the case {native[3]['case']!r} in {native[3]['type']}"
    ]
