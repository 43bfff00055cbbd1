"""The inputs and outputs that a commit records, compared with those of a fresh run."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_pipeline.common import paths
from image_pipeline.common.git import read_blob, run_git
from image_pipeline.experiments.changes import diff, flatten, locked_params
from image_pipeline.experiments.receipts import first_divergence, read_receipt
from image_pipeline.experiments.recorded_runs import is_receipt_of, stage_order
from image_pipeline.experiments.results import file_hashes
from image_pipeline.experiments.revisions import SHORT


@dataclass(frozen=True)
class Check:
    """A param, input or output, and how it differs; an empty problem if it does not."""

    name: str
    problem: str = ""


def remove_outputs(root: Path, lock: Mapping[str, Any]) -> None:
    """Delete dvc.lock and all its outputs, so that only what the run writes is there afterwards."""
    (root / "dvc.lock").unlink(missing_ok=True)
    for name in file_hashes(lock):
        path = (root / name).resolve()
        if path.is_relative_to(root.resolve()) and path.is_file():
            path.unlink()


def check_inputs(recorded: Mapping[str, Any], rerun: Mapping[str, Any]) -> Iterator[Check]:
    """Yield the params and input files that differ from those in the committed dvc.lock.

    Args:
        recorded: the stages of the committed dvc.lock.
        rerun: the stages of the new run; all others are ignored.
    """
    recorded = {name: stage for name, stage in recorded.items() if name in rerun}
    for key, locked, current in diff(locked_params(recorded), locked_params(rerun)):
        yield Check(key, f"{locked} in dvc.lock, {current} in params.yaml")
    inputs = [file_hashes(stages, "deps") for stages in (recorded, rerun)]
    outputs = file_hashes(rerun)
    for path, locked, current in diff(*inputs):
        if path not in outputs:
            yield Check(path, f"{locked[:SHORT]} in dvc.lock, {current[:SHORT]} in the commit")


def check_outputs(
    root: Path, recorded: Mapping[str, Any], rerun: Mapping[str, Any], all_stages: bool
) -> Iterator[Check]:
    """Yield every output of the new run, in the pipeline's order, and those of the commit alone.

    Args:
        root: of the project that was run.
        recorded: the stages of the committed dvc.lock to compare.
        rerun: the same stages of the new run.
        all_stages: whether these are all, so that each metric and plot in Git must be an output.
    """
    locked, new = file_hashes(recorded), file_hashes(rerun)
    tracked = set(run_git("ls-files", "-z", root=root).split("\0"))
    order = [path for name in stage_order(rerun) for path in file_hashes({name: rerun[name]})]
    for path in (*order, *sorted(locked.keys() - new.keys())):
        yield Check(path, _problem(root, path, locked.get(path), new.get(path), tracked))
    if all_stages:
        for path in sorted(tracked - {*new, *locked}):
            if path.startswith(("metrics/", "plots/")):
                yield Check(path, "in Git, but no stage writes it")


def first_tensor(root: Path, recorded: Mapping[str, Any], rerun: Mapping[str, Any]) -> str | None:
    """Describe the first tensor in which a training parts from the one that a commit records.

    Args:
        root: of the project that was run.
        recorded: the stages of the committed dvc.lock.
        rerun: the stages of the new run.

    Returns:
        None if none differs, or if there is no receipt of both.
    """
    path = paths.RECEIPT
    committed = read_blob("HEAD", path, root)
    if path.as_posix() not in file_hashes(rerun) or not is_receipt_of(recorded, committed or b""):
        return None
    return first_divergence(
        read_receipt(f"{path} in the commit", committed or b""),
        read_receipt(str(path), (root / path).read_bytes()),
    )


def _problem(root: Path, path: str, locked: str | None, new: str | None, tracked: set[str]) -> str:
    if new is None:
        return "in dvc.lock, but no stage writes it"
    found = []
    if locked is None:
        found.append("written by the run, but not in dvc.lock")
    elif locked != new:
        found.append(f"{locked[:SHORT]} in dvc.lock, {new[:SHORT]} from the run")
    in_git = path in tracked
    if in_git and run_git("diff", "--name-only", "HEAD", "--", path, root=root):
        found.append(f"the file in Git differs from the run's{_first_difference(root, path)}")
    if not in_git and run_git("ls-files", "--others", "--exclude-standard", "--", path, root=root):
        found.append("written by the run, but not in Git")
    return "; ".join(found)


def _first_difference(root: Path, path: str) -> str:
    """Describe the first value of a JSON file that differs; empty for other files."""
    if not path.endswith(".json"):
        return ""
    try:
        committed = json.loads(run_git("show", f"HEAD:./{path}", root=root))
        rerun = json.loads((root / path).read_text(encoding="utf-8"))
    except ValueError:
        return ""
    for key, first, second in diff(flatten(committed), flatten(rerun)):
        return f" ({key}: {first} in Git, {second} from the run)"
    return ""
