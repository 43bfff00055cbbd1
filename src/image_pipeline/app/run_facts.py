"""Which run a model file comes from, and what is known of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.experiments.outputs import read_stages
from image_pipeline.experiments.results import LOCK
from image_pipeline.experiments.revisions import git
from image_pipeline.modeling.model_card import ModelCard

SHORT = 8  # digits of the model file's hash
NAMES_SHOWN = 12


@dataclass(frozen=True)
class RunFacts:
    """What the page says of the model.

    Attributes:
        dataset: the data set's name.
        network: the network's name.
        class_names: one per class.
        accuracy: on the test images, in words.
        commit: the last one that changed dvc.lock, in words.
        model_hash: of the model file, MD5, as in dvc.lock; its first digits.
    """

    dataset: str
    network: str
    class_names: tuple[str, ...]
    accuracy: str
    commit: str
    model_hash: str

    def classes(self) -> str:
        """Return the names of the classes, the first of them where there are many."""
        shown = ", ".join(self.class_names[:NAMES_SHOWN])
        more = len(self.class_names) - NAMES_SHOWN
        return f"{shown} and {more} more" if more > 0 else shown

    def one_line(self) -> str:
        """Return the facts for a terminal."""
        return f"{self.dataset}, {self.network}, test accuracy {self.accuracy}"


def read_facts(path: Path, card: ModelCard) -> RunFacts:
    """Gather what is known of the model file at `path`, from the project's root.

    metrics/test.json tells the accuracy only if dvc.lock says that it was measured of this very
    file: it may be a model of another run, or the run may be half-way.
    """
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    measured = _is_measured(digest)
    accuracy = _accuracy() if measured else "unknown: dvc.lock is of another model"
    return RunFacts(
        dataset=card.data.dataset,
        network=card.network,
        class_names=card.data.class_names,
        accuracy=accuracy,
        commit=_commit() if measured else "not committed",
        model_hash=digest[:SHORT],
    )


def _is_measured(model_hash: str) -> bool:
    """Tell whether dvc.lock says that metrics/test.json, as it is, was measured of this model."""
    try:
        evaluate = read_stages(LOCK).get("evaluate", {})
        metrics = hashlib.md5(paths.TEST_METRICS.read_bytes(), usedforsecurity=False).hexdigest()
    except (OSError, YAMLError):
        return False
    return (
        _hash_of(paths.MODEL, evaluate, "deps") == model_hash
        and _hash_of(paths.TEST_METRICS, evaluate, "outs") == metrics
    )


def _hash_of(path: Path, stage: Mapping[str, Any], kind: str) -> str | None:
    return {entry["path"]: entry.get("md5") for entry in stage.get(kind, [])}.get(path.as_posix())


def _accuracy() -> str:
    metrics = json.loads(paths.TEST_METRICS.read_text(encoding="utf-8"))
    errors, images = metrics["errors"], metrics["images"]
    return f"{metrics['accuracy']:.2%} ({errors:,} errors in {images:,} images)"


def _commit() -> str:
    changed = git("status", "--porcelain", "--", str(LOCK))
    commit = git("log", "-1", "--format=%h", "--", str(LOCK))
    return commit if commit and not changed else "not committed"
