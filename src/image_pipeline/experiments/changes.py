"""What differs between two runs besides their results, from their dvc.lock files."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from image_pipeline.experiments.results import Results

REQUIREMENTS = Path("requirements.lock")
KINDS = ("params", "data", "code", "environment")
MISSING = "not set"


class Change(NamedTuple):
    """A key or file that differs; `first` and `second` are its values, empty for code and data."""

    name: str
    first: str
    second: str


def changes(first: Results, second: Results) -> dict[str, list[Change]]:
    """Return what differs between two runs, by kind: params, data, code and environment."""
    found: dict[str, list[Change]] = {kind: [] for kind in KINDS}
    found["params"] = diff(locked_params(first.lock), locked_params(second.lock))
    files = [dict(_inputs(results.lock)) for results in (first, second)]
    for path, _, _ in diff(*files):
        found[kind_of(path)].append(Change(path, "", ""))
    if found["environment"]:
        packages = [_packages(results) for results in (first, second)]
        found["environment"] = diff(*packages) or found["environment"]
    return found


def diff(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    """Return the keys whose values differ, sorted, with both values as text."""
    return [
        Change(key, str(first.get(key, MISSING)), str(second.get(key, MISSING)))
        for key in sorted({*first, *second})
        if first.get(key, MISSING) != second.get(key, MISSING)
    ]


def locked_params(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params that the stages of a dvc.lock ran with, by dotted key."""
    found: dict[str, Any] = {}
    for stage in lock.values():
        for values in stage.get("params", {}).values():
            found |= flatten(values)
    return found


def flatten(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of nested mappings by dotted key; an empty mapping counts as a value."""
    found: dict[str, Any] = {}
    for name, value in block.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            found[name] = value
    return found


def params_not_run(results: Results) -> list[Change]:
    """Return the params whose value in params.yaml differs from the one in dvc.lock."""
    current = flatten(results.params)
    tracked = tuple(
        f"{key}."
        for stage in results.lock.values()
        for values in stage.get("params", {}).values()
        for key in values
    )
    relevant = {key: current[key] for key in current if f"{key}.".startswith(tracked)}
    return diff(locked_params(results.lock), relevant)


def _inputs(lock: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield commands and files with their hashes; of the run's own outputs, only those in data/."""
    outputs = {out["path"] for stage in lock.values() for out in stage.get("outs", [])}
    for name, stage in lock.items():
        yield f"the command of {name}", str(stage.get("cmd"))
        for entry in (*stage.get("deps", []), *stage.get("outs", [])):
            path = entry["path"]
            if path not in outputs or path.startswith("data/"):
                yield path, str(entry.get("md5"))


def kind_of(path: str) -> str:
    """Return the kind of a file that a stage reads, or of a command: one of KINDS."""
    if path == REQUIREMENTS.as_posix():
        return "environment"
    return "code" if path.startswith(("src/", "stages/", "the command of ")) else "data"


def _packages(results: Results) -> dict[str, str]:
    text = (results.revision.read(REQUIREMENTS) or b"").decode(errors="replace")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))
