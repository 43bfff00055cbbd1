"""Puts the weights that training starts from into a folder: published ones, or one's own."""

import hashlib
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from image_pipeline import models
from image_pipeline.common.errors import DataError, ParamsError, one_line
from image_pipeline.common.files import atomic_write
from image_pipeline.common.paths import PARAMS
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files
from image_pipeline.pretrained.params import WeightsParams
from image_pipeline.pretrained.weights import (
    MANIFEST,
    PretrainedWeights,
    read_state_dict,
    write_manifest,
)


def fetch_published(
    network: str, options: Mapping[str, object], folder: Path, mirror: str | None
) -> PretrainedWeights:
    """Fetch the weights that a network's file names, by its function `pretrained`.

    Args:
        network: name of its file.
        options: of the network.
        folder: created if missing; the right file in it is kept, all else removed.
        mirror: an http(s) address or a local folder to try first, or None.

    Raises:
        ParamsError: the network's file names no weights, or none for these options.
        DownloadError: no mirror delivered the file.
        DataError: it is no file of weights.
    """
    key = f"{PARAMS}: train.model.{network}"
    describe = getattr(import_module(f"{models.__name__}.{network}"), "pretrained", None)
    if describe is None:
        raise ParamsError(
            f"{key}.pretrained: true is not allowed: src/image_pipeline/models/{network}.py has no "
            "function `pretrained`; set it to false, or name a file in weights.path"
        )
    try:
        weights: PretrainedWeights = describe(**options)
    except (TypeError, ValueError) as error:
        raise ParamsError(f"{key}: {one_line(error)}") from None
    fetch_files([RemoteFile(weights.file, weights.sha256)], weights.mirrors, folder, mirror)
    read_state_dict(folder / weights.file)  # refused here, before training
    _finish(folder, weights)
    return weights


def copy_own(params: WeightsParams, folder: Path) -> PretrainedWeights:
    """Copy the file that `weights.path` names.

    Raises:
        ParamsError: there is no `weights.sha256`.
        DataError: the file is missing, has another SHA-256, or is no file of weights.
    """
    key, path = f"{PARAMS}: weights", Path(params.path)
    if not params.sha256:
        raise ParamsError(
            f"{key}.sha256: missing; a file of weights needs it (`sha256sum` prints it)"
        )
    weights = PretrainedWeights(
        name=path.name,
        file=path.name,
        sha256=params.sha256,
        source="",
        license=params.license,
        mean=tuple(params.mean),
        std=tuple(params.std),
    )
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path}: no such file; see weights.path in {PARAMS}") from None
    if found != params.sha256:
        raise DataError(
            f"{path}: its SHA-256 is {found}, not weights.sha256; get the right file, or correct "
            "the key"
        )
    read_state_dict(path)  # refused here, before training and before it takes another's place
    with path.open("rb") as file, atomic_write(folder / path.name) as target:
        shutil.copyfileobj(file, target)
    _finish(folder, weights)
    return weights


def fetch_nothing(folder: Path) -> None:
    """Leave a manifest that says so, as DVC warns of empty folders."""
    write_manifest(folder, None)
    _remove_others(folder, MANIFEST)


def _finish(folder: Path, weights: PretrainedWeights) -> None:
    write_manifest(folder, weights)
    _remove_others(folder, weights.file, MANIFEST)


def _remove_others(folder: Path, *kept: str) -> None:
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
