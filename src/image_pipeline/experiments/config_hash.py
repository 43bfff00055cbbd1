"""A hash of all that results depend on except the seed: runs that share it are repetitions."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError
from image_pipeline.common.git import run_git
from image_pipeline.common.hashes import WITHOUT_INFLUENCE, fingerprint
from image_pipeline.experiments.results import read_mapping
from image_pipeline.experiments.revisions import Revision

# The code that computes results, as paths for Git, without what only draws or reads them.
CODE = ("dvc.yaml", "requirements.lock", "stages", "src")
NO_RESULT_CODE = re.compile(
    rf"stages/(plot|export)\.py|src/image_pipeline/({'|'.join(sorted(WITHOUT_INFLUENCE))})(\.py|/|$)"
)
NO_RESULT_PARAMS = ("plot", "machine")  # blocks of params.yaml that change no metric
DIGITS = 8


def config_hash(revision: Revision) -> str:
    """Return a short hash of a revision's code, packages and params, except `train.seed`.

    Raises:
        DataError: its params.yaml is missing or not valid.
    """
    files = sorted(_files(revision))
    code = (f"{blob} {path}" for path, blob in files if not NO_RESULT_CODE.match(path))
    return fingerprint(_params(revision), code)[:DIGITS]


def _params(revision: Revision) -> dict[str, object]:
    params = read_mapping(revision, paths.PARAMS)
    if not isinstance(params.get("train"), dict):
        raise DataError(f"{paths.PARAMS} in {revision}: without the block `train`")
    train = {key: value for key, value in params["train"].items() if key != "seed"}
    kept = {key: value for key, value in params.items() if key not in NO_RESULT_PARAMS}
    return kept | {"train": train}


def _files(revision: Revision) -> Iterator[tuple[str, str]]:
    """Yield path and blob hash of each file of code."""
    tree = revision.commit or _workspace_tree()
    for line in run_git("ls-tree", "-r", "-z", tree, "--", *CODE).split("\0")[:-1]:
        info, _, path = line.partition("\t")
        yield path, info.split()[2]


def _workspace_tree() -> str:
    """Return the hash of a Git tree of the workspace; the user's index stays untouched."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        run_git("read-tree", "HEAD", env=env)
        run_git("add", "--all", "--", *(path for path in CODE if Path(path).exists()), env=env)
        return run_git("write-tree", env=env).strip()
