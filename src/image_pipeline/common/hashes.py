"""Hashes of files and settings, and which code decides the metrics of a run."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

# Modules and rooms of this package that change no metric: they read, draw or pass on results.
WITHOUT_INFLUENCE = frozenset(
    ("__main__", "app", "auditing", "commands", "common", "distributed", "experiments")
) | {"exporting", "plotting", "prediction"}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dvc_md5(path: Path) -> str:
    """Return the hash of a file that dvc.lock has of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fingerprint(settings: object, contents: Iterable[str]) -> str:
    """Return a hash of settings (JSON values) and, in this order, of what else decides a result.

    Args:
        settings: whose keys may come in any order.
        contents: hashes of files, with their names if these matter.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for content in contents:
        digest.update(f"\n{content}".encode())
    return digest.hexdigest()
