"""Training state on disk, so that a killed run goes on where it was and ends in the same bits.

A checkpoint is named by a key: the hash of everything that determines the result. Another setting,
another line of code or another byte of data has another key and never finds it. The file is the
SHA-256 of the rest, then what `torch.save` wrote; it is read with `weights_only=True`, which builds
tensors and plain values and nothing else.
"""

import hashlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from image_pipeline.common.files import PARTIAL_SUFFIX, write_bytes
from image_pipeline.common.hashes import WITHOUT_INFLUENCE, fingerprint, sha256
from image_pipeline.training.params import TrainParams

DIGEST_BYTES = 32
PACKAGE = __name__.split(".")[0]
KEPT = 3  # checkpoints, with this run's own: room to go back to a setting tried a moment ago


def result_key(
    params: TrainParams, facts: Mapping[str, Any], data: Sequence[Path], scripts: Sequence[Path]
) -> str:
    """Hash everything that determines a training run's result.

    Args:
        params: of the training.
        facts: versions and kernels, as JSON values.
        data: the files that are read.
        scripts: code beyond the modules of this package that are loaded now.

    Returns:
        64 hexadecimal digits.
    """
    settings = {"train": params.effective(), "facts": dict(facts)}
    return fingerprint(settings, map(sha256, (*loaded_code(), *scripts, *data)))


def loaded_code() -> list[Path]:
    """Return the modules of this package that are loaded now and can change a result."""
    return [
        Path(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] == PACKAGE and module.__file__
        if not {*name.split(".")[1:2]} & WITHOUT_INFLUENCE
    ]


class CheckpointFile:
    """The one checkpoint of the run with this key; each save takes the place of the one before."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.path = folder / f"{key[:32]}.checkpoint"
        self._key = key

    def save(self, state: Mapping[str, Any]) -> None:
        """Write `state` (tensors, numbers, strings, lists and dicts), whole or not at all."""
        buffer = io.BytesIO()
        torch.save({"key": self._key, "state": dict(state)}, buffer)
        content = buffer.getvalue()
        write_bytes(self.path, hashlib.sha256(content).digest() + content)
        self._tidy()

    def read(self) -> bytes | None:
        """Return the content of the file, or None where there is none."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None where there is none that can be used.

        A torn or foreign file is reported on standard error and ignored.
        """
        content = self.read()
        if content is None:
            return None
        digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            self.ignore("torn")
            return None
        try:
            found = torch.load(io.BytesIO(content), weights_only=True)
            key, state = found["key"], dict(found["state"])
        except Exception as error:  # torch documents no classes for what foreign bytes can raise
            self.ignore(f"no checkpoint of this pipeline ({type(error).__name__})")
            return None
        if key != self._key:
            self.ignore("of another run")
            return None
        return state

    def remove(self) -> None:
        """Remove the file, once the run's results are written."""
        self.path.unlink(missing_ok=True)
        self._tidy()

    def _tidy(self) -> None:
        """Bound what runs that were killed and never taken up again leave behind."""
        by_age = sorted(self.folder.glob("*.checkpoint"), key=lambda path: path.stat().st_mtime)
        for path in (*by_age[:-KEPT], *self.folder.glob(f"*{PARTIAL_SUFFIX}")):
            path.unlink(missing_ok=True)

    def ignore(self, reason: str) -> None:
        """Say on standard error why the checkpoint is not used."""
        print(
            f"WARNING: {self.path}: this checkpoint is {reason}; it is ignored and training starts "
            "from the beginning.",
            file=sys.stderr,
            flush=True,
        )
