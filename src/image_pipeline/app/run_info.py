"""Which run a model file comes from, with its test accuracy and commit."""

import json
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.common.git import git
from image_pipeline.common.hashes import dvc_md5
from image_pipeline.experiments.results import LOCK, file_hashes, read_stages
from image_pipeline.modeling.model_card import ModelCard

SHORT_HASH = 8  # digits of the model file's hash
MAX_NAMES = 12  # class names that are listed


@dataclass(frozen=True)
class RunInfo:
    """What the head of the page says about the model.

    Attributes:
        dataset: name of the data set.
        network: name of the network.
        class_names: one per class.
        accuracy: on the test images, as text; says so if it is unknown.
        commit: the last one that changed dvc.lock; says so if there is none.
        model_hash: first digits of the model file's MD5, as in dvc.lock.
    """

    dataset: str
    network: str
    class_names: tuple[str, ...]
    accuracy: str
    commit: str
    model_hash: str

    def classes(self) -> str:
        """Return the class names as text, the first `MAX_NAMES` of them if there are more."""
        listed = ", ".join(self.class_names[:MAX_NAMES])
        more = len(self.class_names) - MAX_NAMES
        return f"{listed} and {more} more" if more > 0 else listed


def read_run_info(path: Path, card: ModelCard) -> RunInfo:
    """Collect the information about the model file at `path`; run in the project's root.

    metrics/test.json gives the accuracy only if dvc.lock says that it was measured with this very
    file: the file may be the model of another run, or a run may be in progress.
    """
    digest = dvc_md5(path)
    evaluated = _is_evaluated(digest)
    return RunInfo(
        dataset=card.data.dataset,
        network=card.network,
        class_names=card.data.class_names,
        accuracy=_accuracy() if evaluated else "unknown: dvc.lock does not name this model",
        commit=_commit() if evaluated else "not committed",
        model_hash=digest[:SHORT_HASH],
    )


def _is_evaluated(model_hash: str) -> bool:
    """Tell whether dvc.lock says that metrics/test.json was measured with this model."""
    try:
        stages = {"evaluate": read_stages(LOCK).get("evaluate", {})}
        metrics = dvc_md5(paths.TEST_METRICS)
    except (OSError, YAMLError):
        return False
    return (
        file_hashes(stages, "deps").get(paths.MODEL.as_posix()) == model_hash
        and file_hashes(stages).get(paths.TEST_METRICS.as_posix()) == metrics
    )


def _accuracy() -> str:
    metrics = json.loads(paths.TEST_METRICS.read_text(encoding="utf-8"))
    errors, images = metrics["errors"], metrics["images"]
    return f"{metrics['accuracy']:.2%} ({errors:,} errors in {images:,} images)"


def _commit() -> str:
    changed = git("status", "--porcelain", "--", str(LOCK))
    commit = git("log", "-1", "--format=%h", "--", str(LOCK))
    return commit if commit and not changed else "not committed"
