"""What a run recorded of itself: the stages in its dvc.lock, and the receipt of its training.

Both may be a stranger's. DVC writes params, dependencies and outputs of each stage into dvc.lock,
with their hashes, and nothing of the machine.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.experiments.receipts import Receipt, read_receipt
from image_pipeline.experiments.results import LOCK, file_hashes
from image_pipeline.experiments.revisions import Revision, RevisionError, resolve

# Of a dvc.lock, its aliases resolved; this project's has 15,000 characters.
MAX_SIZE = 1_000_000  # characters of texts, and other values
MAX_DEPTH = 100
WHAT_HOLDS_A_RUN = f"a {paths.RECEIPT.name}, a {LOCK}, a project's folder or a revision"

Stages = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RecordedRun:
    """A run, as it was recorded.

    Attributes:
        name: for messages.
        stages: of its dvc.lock, by name; empty if only its receipt is known.
        receipt: of its training; None if it is not known.
    """

    name: str
    stages: Stages
    receipt: Receipt | None


@dataclass(frozen=True)
class Folder:
    """Somebody's project, or some of its files."""

    path: Path

    def __str__(self) -> str:
        return one_line(self.path, 60)

    def read(self, path: Path) -> bytes | None:
        """Return the content of a file; None if it is missing."""
        file = self.path / path
        return file.read_bytes() if file.is_file() else None


def read_project(source: Revision | Folder) -> RecordedRun:
    """Read dvc.lock and, if there is one, the receipt of its run.

    Raises:
        DataError: dvc.lock is missing; a file is unreadable or malformed, or the receipt is that
            of another run.
    """
    try:
        lock, content = source.read(LOCK), source.read(paths.RECEIPT)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    if lock is None:
        raise DataError(f"{LOCK}: not in {source}; there is no run to read")
    stages = parse_lock(f"{LOCK} in {source}", lock)
    if content is None:
        return RecordedRun(str(source), stages, None)
    name = f"{paths.RECEIPT} in {source}"
    receipt = read_receipt(name, content)
    if not is_receipt_of(stages, content):
        raise DataError(f"{name}: not the one of the run in {LOCK}; run `dvc repro`")
    return RecordedRun(str(source), stages, receipt)


def is_receipt_of(stages: Mapping[str, Any], content: bytes) -> bool:
    """Say whether a receipt was written by the run in a dvc.lock."""
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return file_hashes(stages).get(paths.RECEIPT.as_posix()) == digest


def read_run(name: str) -> RecordedRun:
    """Read a run from a receipt, a dvc.lock, a folder with both, or a Git revision.

    Raises:
        DataError: a file is missing, unreadable or malformed.
        RevisionError: there is nothing of this name.
    """
    path, shown = Path(name), one_line(name, 60)
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        return read_project(Folder(path))
    except (FileNotFoundError, NotADirectoryError):
        try:
            return read_project(resolve(name))
        except RevisionError:
            raise RevisionError(
                f"{shown}: no such file, folder or revision; give {WHAT_HOLDS_A_RUN}"
            ) from None
    except OSError as error:
        raise DataError(f"{shown}: {error.strerror}; give {WHAT_HOLDS_A_RUN}") from None
    if re.search(rb"^stages:", content, re.MULTILINE):
        return RecordedRun(shown, parse_lock(shown, content), None)
    return RecordedRun(shown, {}, read_receipt(shown, content))


class _Entry(BaseModel):
    path: str
    md5: str


class _Stage(BaseModel):
    cmd: str | list[str]
    params: dict[str, dict[str, Any]] = {}
    deps: list[_Entry] = []
    outs: list[_Entry] = []


class _Lock(BaseModel):
    stages: Annotated[dict[str, _Stage], Field(min_length=1)]


def parse_lock(name: str, content: bytes) -> Stages:
    """Parse a dvc.lock; return its stages by name.

    Raises:
        DataError: it is not one, or has no run in it.
    """
    try:
        lock = YAML(typ="safe").load(content)
        _check_size(lock)
        _Lock.model_validate(lock)
        stages: Stages = lock["stages"]
        stage_order(stages)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}"
    except CycleError:
        reason = "its stages wait for each other"
    except RecursionError:
        reason = "too deeply nested"
    except (YAMLError, ValueError) as error:
        reason = str(error)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of odd tags
        reason = repr(error)
    else:
        return stages
    raise DataError(f"{name}: not a {LOCK} of a run ({one_line(reason)}); `dvc repro` writes one")


def stage_order(stages: Mapping[str, Any]) -> list[str]:
    """Return the names of stages so that each comes after those whose outputs it reads.

    Raises:
        CycleError: there is no such order.
    """
    writers = {PurePosixPath(out["path"]): name for name, out in _entries(stages, "outs")}
    graph: dict[str, list[str]] = {name: [] for name in stages}
    for name, dep in _entries(stages, "deps"):
        path = PurePosixPath(dep["path"])
        graph[name] += [writers[place] for place in (path, *path.parents) if place in writers]
    return [*TopologicalSorter(graph).static_order()]


def _entries(stages: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, entry) for name, stage in stages.items() for entry in stage.get(kind, []))


def _check_size(document: Any) -> None:
    """Raise a ValueError if aliases make a document endless, or if it is too large to be shown."""
    size, remaining = 0, [(document, 0)]
    while remaining:
        value, depth = remaining.pop()
        size += len(value) if isinstance(value, str) else 1
        if size > MAX_SIZE:
            raise ValueError("too large")
        if depth > MAX_DEPTH:
            raise ValueError("too deeply nested")
        if isinstance(value, Mapping):
            remaining += [(each, depth + 1) for each in chain(value.keys(), value.values())]
        elif isinstance(value, list | tuple | set):
            remaining += [(each, depth + 1) for each in value]
