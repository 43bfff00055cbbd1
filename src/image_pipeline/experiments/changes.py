"""What changed between two runs besides their results, from the two dvc.lock files."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from image_pipeline.experiments.results import Results

REQUIREMENTS = Path("requirements.lock")
KINDS = ("params", "data", "code", "environment")
MISSING = "not set"


class Change(NamedTuple):
    """Something that differs: its name, and what it is in the two; nothing for code and data."""

    name: str
    first: str
    second: str


def changes(first: Results, second: Results) -> dict[str, list[Change]]:
    """Return what differs between two runs, by kind: params, data, code and environment."""
    found: dict[str, list[Change]] = {kind: [] for kind in KINDS}
    found["params"] = differing(locked_params(first.lock), locked_params(second.lock))
    files = [dict(_files(results.lock)) for results in (first, second)]
    for path, _, _ in differing(*files):
        found[_kind(path)].append(Change(path, "", ""))
    if found["environment"]:
        packages = [_packages(results) for results in (first, second)]
        found["environment"] = differing(*packages) or found["environment"]
    return found


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    """Return the keys whose values differ, with both values in words."""
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
            found |= flat(values)
    return found


def flat(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of nested blocks by their dotted keys; a block without any is a value."""
    found: dict[str, Any] = {}
    for name, value in block.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{name}.{key}": inner for key, inner in flat(value).items()}
        else:
            found[name] = value
    return found


def not_yet_run(results: Results) -> list[Change]:
    """Return the params whose value in params.yaml is not the one that the run had."""
    now = flat(results.params)
    ran = locked_params(results.lock)
    blocks = {key for stage in results.lock.values() for key in _keys(stage)}
    read = {key: now[key] for key in now if any(f"{key}.".startswith(f"{b}.") for b in blocks)}
    return differing(ran, read)


def _keys(stage: Mapping[str, Any]) -> Iterator[str]:
    for values in stage.get("params", {}).values():
        yield from values


def _files(lock: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what went into a run with its hash; what the run itself made only if it is data."""
    made = {out["path"] for stage in lock.values() for out in stage.get("outs", [])}
    for name, stage in lock.items():
        yield f"the command of {name}", str(stage.get("cmd"))
        for entry in (*stage.get("deps", []), *stage.get("outs", [])):
            path = entry["path"]
            if path not in made or path.startswith("data/"):
                yield path, str(entry.get("md5"))


def _kind(path: str) -> str:
    if path == REQUIREMENTS.as_posix():
        return "environment"
    return "code" if path.startswith(("src/", "stages/", "the command of ")) else "data"


def _packages(results: Results) -> dict[str, str]:
    text = (results.revision.read(REQUIREMENTS) or b"").decode(errors="replace")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))
