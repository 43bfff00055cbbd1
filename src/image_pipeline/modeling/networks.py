"""A network by its name: a file of `image_pipeline.models` with `class Model(nn.Module)` in it.

Its constructor takes `shape` (channels, height, width), `classes` and keyword options, which are
the block `train.model.<name>` of params.yaml; its `forward` maps normalised images float32
`[B, C, H, W]` to logits float32 `[B, classes]`. docs/networks.md shows a whole one.
"""

import hashlib
import inspect
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from image_pipeline import models
from image_pipeline.common.errors import NetworkError, ParamsError, one_line
from image_pipeline.modeling.options import check_options

FOLDER = Path(models.__file__).parent
DRY_RUN_IMAGES = 2  # batch norm wants more than one
NO_MEMORY = "allocate memory"  # of torch's allocator; told apart from a network's own mistakes


def names() -> list[str]:
    """Return the networks there are."""
    return sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


def source_hash(name: str) -> str:
    """Return the SHA-256 of a network's file, 64 hexadecimal digits.

    Raises:
        NetworkError: there is no such file.
    """
    return hashlib.sha256(_file(name).read_bytes()).hexdigest()


def build(
    name: str,
    options: Mapping[str, Any],
    shape: tuple[int, int, int],
    classes: int,
    *,
    dry_run: bool = True,
) -> nn.Module:
    """Make a network with fresh weights from torch's global generator, on torch's default device.

    It is asked about two black images, so that lazy layers get their shapes and a network that
    gives something else than logits is found before it is trained.

    Args:
        name: of its file.
        options: keyword arguments of its constructor beside the two below.
        shape: channels, height and width of an image.
        classes: how many logits there are for an image.
        dry_run: whether it is asked at all, where that is not needed to know its weights' shapes.

    Raises:
        NetworkError: there is no such network, or it refuses the options or the images.
    """
    path = _file(name)
    try:
        network = getattr(import_module(f"{models.__name__}.{name}"), "Model", None)
    except (ModuleNotFoundError, SyntaxError) as error:
        raise NetworkError(f"{_shown(path)}: it cannot be imported: {one_line(error)}") from error
    if not (inspect.isclass(network) and issubclass(network, nn.Module)):
        raise NetworkError(f"{_shown(path)}: it has no `class Model(nn.Module)`")
    try:
        checked = check_options(f"train.model.{name}", network, options, skip=2)
    except ParamsError as error:
        raise NetworkError(str(error)) from None
    try:
        model: nn.Module = network(shape, classes, **checked)
        if not dry_run and not any(map(is_lazy, model.parameters())):
            return model
        with torch.no_grad():
            logits = model.eval()(torch.zeros(DRY_RUN_IMAGES, *shape))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if NO_MEMORY in str(error) or isinstance(error, NotImplementedError):
            raise
        where = _where(path, error)
        raise NetworkError(
            f"train.model.{name}: the network refuses these options for {classes} classes and "
            f"images of {'x'.join(map(str, shape))}: {one_line(error)} ({where})"
        ) from error
    found = tuple(getattr(logits, "shape", ()))
    if found != (DRY_RUN_IMAGES, classes) or logits.dtype != torch.float32:
        raise NetworkError(
            f"{_shown(path)}: forward must give logits float32 [B, {classes}] for images "
            f"[B, {', '.join(map(str, shape))}]; for B = {DRY_RUN_IMAGES} it gave "
            f"{getattr(logits, 'dtype', type(logits).__name__)} {list(found)}"
        )
    for parameter, weights in model.named_parameters():
        if weights.dtype != torch.float32:
            raise NetworkError(
                f"{_shown(path)}: its weights must be float32, `{parameter}` is {weights.dtype}"
            )
    return model.train()


def first_layer(model: nn.Module, shape: tuple[int, int, int]) -> str | None:
    """Return the name of the weights that look at the pixels first; None where none do.

    These are the first weights in the network, if they are a convolution's of all channels or a
    dense layer's of all pixels: what can be drawn as one picture for each unit.
    """
    for name, weights in model.named_parameters():
        size = tuple(weights.shape)
        pixels = shape[0] * shape[1] * shape[2]
        dense = len(size) == 2 and size[1] == pixels
        convolution = len(size) == 4 and size[1] == shape[0] and size[2:] <= shape[1:]
        return name if dense or convolution else None
    return None


def _file(name: str) -> Path:
    path = FOLDER / f"{name}.py"
    if name not in names():
        raise NetworkError(
            f"train.model.name: there is no network `{one_line(name, 60)}` in "
            f"src/image_pipeline/models; there are {', '.join(names())}"
        )
    return path


def _shown(path: Path) -> str:
    return "/".join(("src", *path.parts[-3:]))


def _where(path: Path, error: BaseException) -> str:
    """Return the last line of the network's own file that led to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"{_shown(path)}, line {lines[-1]}" if lines else _shown(path)
