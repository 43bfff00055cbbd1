"""What a commit says came out of its run, held against what does come out."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from image_pipeline.experiments.changes import differing, flat, locked_params
from image_pipeline.experiments.results import output_hashes
from image_pipeline.experiments.revisions import SHORT


@dataclass(frozen=True)
class Checked:
    """An output, or what it was made from, and what is wrong with it; empty if nothing is."""

    name: str
    wrong: str = ""


def read_stages(lock: Path) -> dict[str, dict[str, Any]]:
    """Return the stages of a dvc.lock, by name; none if there is no such file."""
    values = YAML(typ="safe").load(lock) if lock.is_file() else None
    return dict((values or {}).get("stages") or {})


def remove_outputs(root: Path, lock: Mapping[str, Any]) -> None:
    """Remove dvc.lock and every output of it, so that whatever is there later came out."""
    (root / "dvc.lock").unlink(missing_ok=True)
    for name in output_hashes(lock):
        path = (root / name).resolve()
        if path.is_relative_to(root.resolve()) and path.is_file():
            path.unlink()


def check_inputs(stated: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Checked]:
    """Yield the params and files that are not those that dvc.lock says its run had.

    Args:
        stated: the stages of the committed dvc.lock.
        found: those of the run, and no others.
    """
    same = {name: stage for name, stage in stated.items() if name in found}
    for key, locked, now in differing(locked_params(same), locked_params(found)):
        yield Checked(key, f"{locked} in dvc.lock, {now} in params.yaml")
    made = output_hashes(found)
    inputs = [
        {
            entry["path"]: entry.get("md5")
            for stage in stages.values()
            for entry in stage.get("deps", [])
            if entry["path"] not in made
        }
        for stages in (same, found)
    ]
    for path, locked, now in differing(*inputs):
        yield Checked(path, f"{locked[:SHORT]} in dvc.lock, {now[:SHORT]} in the commit")


def check_outputs(
    root: Path, stated: Mapping[str, Any], found: Mapping[str, Any], whole: bool
) -> Iterator[Checked]:
    """Yield every output of the run, and of the commit.

    Args:
        root: of the project that was run.
        stated: the stages of the committed dvc.lock whose outputs are to be compared.
        found: the same stages as they ran.
        whole: whether these are all stages, so that no tracked metric or plot may be left over.
    """
    locked, made = output_hashes(stated), output_hashes(found)
    tracked = set(_git(root, "ls-files", "-z").split("\0"))
    for path in sorted({*locked, *made}):
        yield Checked(path, _wrong(root, path, locked.get(path), made.get(path), tracked))
    if whole:
        for path in sorted(tracked - {*made, *locked}):
            if path.startswith(("metrics/", "plots/")):
                yield Checked(path, "in Git, and no stage makes it")


def _wrong(root: Path, path: str, locked: str | None, made: str | None, tracked: set[str]) -> str:
    if made is None:
        return "in dvc.lock, and no stage makes it"
    found = []
    if locked is None:
        found.append("came out, and is not in dvc.lock")
    elif locked != made:
        found.append(f"{locked[:SHORT]} in dvc.lock, {made[:SHORT]} came out")
    in_git = path in tracked
    if in_git and _git(root, "diff", "--name-only", "HEAD", "--", path):
        found.append(f"the file in Git is not what came out{_first_difference(root, path)}")
    if not in_git and _git(root, "ls-files", "--others", "--exclude-standard", "--", path):
        found.append("came out, and is not in Git")
    return "; ".join(found)


def _first_difference(root: Path, path: str) -> str:
    """Return the first value of a JSON file that differs, in words; nothing for other files."""
    if not path.endswith(".json"):
        return ""
    try:
        committed = json.loads(_git(root, "show", f"HEAD:./{path}"))
        came_out = json.loads((root / path).read_text(encoding="utf-8"))
    except ValueError:
        return ""
    for key, first, second in differing(flat(committed), flat(came_out)):
        return f" ({key}: {first} in Git, {second} came out)"
    return ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, check=True, encoding="utf-8"
    )
    return done.stdout
