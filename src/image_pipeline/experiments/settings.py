"""What a run depends on, but for its seed: runs that share it are repeats of each other."""

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError
from image_pipeline.experiments.revisions import Revision

# What computes, as Git lists it; pictures and what only reads results are left out.
COMPUTES = ("dvc.yaml", "requirements.lock", "stages", "src")
READS = re.compile(
    r"stages/plot\.py|src/image_pipeline/(commands|experiments|plotting|__main__\.py)(/|$)"
)
NO_RESULT = ("plot", "machine")  # blocks of params.yaml that change no metric
DIGITS = 8


def settings_key(revision: Revision) -> str:
    """Return a short name of a revision's code, packages and params, all but `train.seed`.

    Raises:
        DataError: its params.yaml is not there, or no YAML.
    """
    digest = hashlib.sha256(json.dumps(_params(revision), sort_keys=True).encode())
    for path, content in sorted(_files(revision)):
        if not READS.match(path):
            digest.update(f"\n{content} {path}".encode())
    return digest.hexdigest()[:DIGITS]


def _params(revision: Revision) -> dict[str, object]:
    text = revision.read(paths.PARAMS)
    try:
        params = YAML(typ="safe").load(text or b"")
    except YAMLError:
        params = None
    if not isinstance(params, dict) or not isinstance(params.get("train"), dict):
        raise DataError(f"{paths.PARAMS} in {revision}: not there, or without the block `train`")
    train = {key: value for key, value in params["train"].items() if key != "seed"}
    kept = {key: value for key, value in params.items() if key not in NO_RESULT}
    return kept | {"train": train}


def _files(revision: Revision) -> Iterator[tuple[str, str]]:
    """Yield path and hash of each file that computes."""
    if revision.commit is not None:
        for line in _git("ls-tree", "-r", "-z", revision.commit, "--", *COMPUTES):
            about, _, path = line.partition("\t")
            yield path, about.split()[2]
        return
    with tempfile.TemporaryDirectory() as folder:  # an index of its own, the user's is left alone
        env = os.environ | {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git("read-tree", "HEAD", env=env)
        _git("add", "--all", "--", *(path for path in COMPUTES if Path(path).exists()), env=env)
        for line in _git("ls-files", "--stage", "-z", "--", *COMPUTES, env=env):
            about, _, path = line.partition("\t")
            yield path, about.split()[1]


def _git(*arguments: str, env: dict[str, str] | None = None) -> list[str]:
    done = subprocess.run(
        ["git", *arguments], env=env, capture_output=True, check=True, encoding="utf-8"
    )
    return [line for line in done.stdout.split("\0") if line]
