"""What emulated processors have been seen to compute: docs/processors.json, and a page made of it.

test_processors.py writes the file; `python tests/pipeline/proofs.py` makes the page anew.
"""

import csv
import fcntl
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from processors import DESCRIPTIONS
from ruamel.yaml import YAML

from project import ROOT, TRAINED

JSON = ROOT / "docs" / "processors.json"
PAGE = ROOT / "docs" / "processors.md"
DIGITS = 16
TYPES = ("float32", "float64")
NOT_RUN = "not run"
Part = dict[str, Any]  # hashes or numbers by what they are of
TEXT = Path(__file__).with_name("processors_page.md")
PARTS_TEXT = TEXT.with_name("processors_parts.md")  # of the columns; of those that were run


def digest(hashes: Mapping[str, str]) -> str:
    """Return the first digits of the SHA-256 of the lines that `sha256sum` prints, by name."""
    lines = "".join(f"{value}  {path}\n" for path, value in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:DIGITS]


def of_networks(networks: Mapping[str, Mapping[str, str]]) -> Part:
    """Return of each network the hash of its model file, and one of all its outputs."""
    return {
        name: [hashes["models/model.safetensors"][:DIGITS], digest(hashes)]
        for name, hashes in networks.items()
    }


def of_runs(runs: Mapping[str, Mapping[str, str]]) -> Part:
    """Return of each run how many outputs it has, and the hash of them all."""
    return {name: [len(hashes), digest(hashes)] for name, hashes in runs.items()}


def of_operations(listed: str) -> Part:
    """Return how many operations that compute anything are the same, by the list's `on_arm`."""
    rows = [*csv.DictReader(io.StringIO(listed))]
    return {type_: sum(type_ in row["on_arm"].split() for row in rows) for type_ in TYPES}


def committed_mnist() -> Part:
    """Return what a run of MNIST must have: hashes of metrics/receipt.json, MD5s of dvc.lock."""
    first, *_, last = receipt(ROOT)["epochs"]
    stages = YAML(typ="safe").load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    outputs = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    files = {path: md5 for path, md5 in outputs.items() if Path(path).suffix}
    return {
        "first epoch": first.split()[-1],
        "ended natively": {path: files[path] for path in TRAINED},
        "last epoch": last.split()[-1],
        "files": files,
    }


def receipt(root: Path) -> dict[str, list[str]]:
    """Return the receipt of a run."""
    lines: dict[str, list[str]] = json.loads((root / "metrics/receipt.json").read_text())
    return lines


def read() -> dict[str, Any]:
    """Return what has been seen so far."""
    if not JSON.exists() or not JSON.stat().st_size:
        return {"expected": {}, "found": {}}
    seen: dict[str, Any] = json.loads(JSON.read_text(encoding="utf-8"))
    return seen


def record(
    processor: str, part: str, found: Part, expected: Part, emulator: str, native: str
) -> None:
    """Write down what a processor has computed, and the page.

    What others have computed of a part is forgotten where something else is expected now.
    """
    JSON.touch()
    with JSON.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two processors may be tested at a time
        seen = read()
        known = seen["expected"].setdefault(part, {})
        if any(known.get(name, value) != value for name, value in expected.items()):
            known.clear()
            for parts in seen["found"].values():
                parts.pop(part, None)
        known |= expected
        seen |= {"emulator": emulator, "native": native}
        seen["found"].setdefault(processor, {}).setdefault(part, {}).update(found)
        JSON.write_text(json.dumps(seen, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        PAGE.write_text(page(read()), encoding="utf-8")  # in the order of the file


def page(seen: Mapping[str, Any]) -> str:
    """Return the page of what has been seen: no column, line or hash of what nobody has run."""
    expected, found = seen["expected"], seen["found"]
    columns: dict[str, list[str]] = {}
    for name in filter(found.__contains__, DESCRIPTIONS):
        for column, cell in cells(expected, found[name]).items():
            columns.setdefault(column, []).append(cell)
    columns = {name: column for name, column in columns.items() if {*column} != {NOT_RUN}}
    names = [description for name, description in DESCRIPTIONS.items() if name in found]
    table = [["processor", *columns], ["---"] * (len(columns) + 1)]
    table += [[name, *row] for name, *row in zip(names, *columns.values(), strict=True)]
    text = PARTS_TEXT.read_text(encoding="utf-8")
    said = [part for part in text.split("\n\n") if part.split("**")[1] in columns]
    return TEXT.read_text(encoding="utf-8").format(
        emulator=seen["emulator"],
        native="AVX-512" if "X86_V4" in seen["native"] else "AVX2",
        processors=as_table(table),
        columns="\n".join(f"- {part.strip()}" for part in said),
        hashes=as_table([["of", "hash"], ["---", "---"], *hashes(expected)]),
    )


def hashes(expected: Mapping[str, Part]) -> Iterator[list[str]]:
    """Yield what a reader can compare, and its hash."""
    for name, (model, _) in expected.get("networks", {}).items():
        yield [f"`{name}` after three steps, `models/model.safetensors`: SHA-256", f"`{model}`"]
    if digits := expected.get("digits"):
        files, found = digits["all stages"]
        yield [f"digits: SHA-256 of what `sha256sum` prints of all {files} files", f"`{found}`"]
    if mnist := expected.get("mnist"):
        for name in ("first epoch", "last epoch"):
            yield [f"MNIST: {name} in [receipt.json](../metrics/receipt.json)", f"`{mnist[name]}`"]
        model = mnist["files"]["models/model.safetensors"]
        yield [
            "MNIST: MD5 of `models/model.safetensors`, as in [dvc.lock](../dvc.lock)",
            f"`{model}`",
        ]


def as_table(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cells(expected: Mapping[str, Part], found: Mapping[str, Part]) -> dict[str, str]:
    """Return what a row of the page says of a processor, by the column."""

    def same(part: str, *names: str) -> str:
        values = [found.get(part, {}).get(name) for name in names]
        if None in values:
            return NOT_RUN
        return "same" if values == [expected[part][name] for name in names] else "**different**"

    def share(part: str, name: str) -> str:
        if name not in found.get(part, {}):
            return NOT_RUN
        return f"{found[part][name]} of {expected[part][name]}"

    trained = found.get("networks", {})
    alike = [name for name, hashes in trained.items() if hashes == expected["networks"][name]]
    return {
        "networks": f"{len(alike)} of {len(trained)}" if trained else NOT_RUN,
        "digits, all stages": same("digits", "all stages"),
        "digits, ended natively": same("digits", "ended natively"),
        "digits, two processes": same("digits", "two processes"),
        "MNIST, first epoch": same("mnist", "first epoch"),
        "MNIST, ended natively": same("mnist", "ended natively"),
        "MNIST, whole": same("mnist", "last epoch", "files"),
        "operations in float32": share("operations", "float32"),
        "operations in float64": share("operations", "float64"),
        "PyTorch's samples": share("samples", "operations"),
    }


if __name__ == "__main__":
    PAGE.write_text(page(read()), encoding="utf-8")
