"""Builds a network by name: `class Model(nn.Module)` in a file of `image_pipeline.models`.

A function `Model` that returns a module does as well. It takes `shape` (channels, height, width),
`classes` and keyword options, which are the block `train.model.<name>` of params.yaml. `forward`
maps normalised images float32 `[B, C, H, W]` to logits float32 `[B, classes]`. docs/networks.md has
a complete example.

A network that can start from published weights has a function `pretrained` beside its `Model`; see
`image_pipeline.pretrained.fetch`.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from image_pipeline import models
from image_pipeline.common.errors import NetworkError, ParamsError, innermost_line, one_line
from image_pipeline.modeling.options import check_options

FOLDER = Path(models.__file__).parent
DRY_RUN_IMAGES = 2  # batch norm needs more than one
BUILD_ERRORS = ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError
NO_MEMORY = "allocate memory"  # in the message of torch's allocator: not the network's mistake


def names() -> list[str]:
    """Return the names of all networks."""
    return sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


def source_hash(name: str) -> str:
    """Return the SHA-256 of a network's file, 64 hexadecimal digits.

    Raises:
        NetworkError: the file does not exist.
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
    """Build a network with initial weights from torch's global generator, on the default device.

    A dry run, a forward pass on two zero images, gives lazy layers their shapes and detects, before
    training, a network that does not return logits.

    Args:
        name: of the network's file, without `.py`.
        options: keyword arguments of its constructor.
        shape: channels, height and width of an image.
        classes: number of logits per image.
        dry_run: False skips the dry run, unless lazy layers need it.

    Raises:
        NetworkError: the network does not exist, does not accept the options or the images, or does
            not return float32 logits, or has weights or a state that a model file cannot store.
    """
    _file(name)  # must exist
    try:
        network = getattr(import_module(f"{models.__name__}.{name}"), "Model", None)
    except (ModuleNotFoundError, SyntaxError) as error:
        raise NetworkError(f"{shown(name)}: cannot be imported: {one_line(error)}") from error
    if not callable(network) or (inspect.isclass(network) and not issubclass(network, nn.Module)):
        raise NetworkError(f"{shown(name)}: no `class Model(nn.Module)` in this file")
    try:
        checked = check_options(f"train.model.{name}", network, options)
    except ParamsError as error:
        raise NetworkError(str(error)) from None
    try:
        model: nn.Module = network(shape, classes, **checked)
        if not isinstance(model, nn.Module):
            raise TypeError(f"`Model` returned a {type(model).__name__}, not an nn.Module")
        if not dry_run and not any(map(is_lazy, model.parameters())):
            return model
        with torch.no_grad():
            logits = model.eval()(torch.zeros(DRY_RUN_IMAGES, *shape))
    except BUILD_ERRORS as error:
        if NO_MEMORY in str(error) or isinstance(error, NotImplementedError):
            raise
        where = error_line(name, error)
        raise NetworkError(
            f"train.model.{name}: the network fails with these options for {classes} classes and "
            f"images of {'x'.join(map(str, shape))}: {one_line(error)} ({where})"
        ) from error
    found = tuple(getattr(logits, "shape", ()))
    if found != (DRY_RUN_IMAGES, classes) or logits.dtype != torch.float32:
        raise NetworkError(
            f"{shown(name)}: forward must return logits float32 [B, {classes}] for images "
            f"[B, {', '.join(map(str, shape))}]; for B = {DRY_RUN_IMAGES} it returned "
            f"{getattr(logits, 'dtype', type(logits).__name__)} {list(found)}"
        )
    for parameter, weights in model.named_parameters():
        if weights.dtype != torch.float32:
            raise NetworkError(
                f"{shown(name)}: weights must be float32, but `{parameter}` is {weights.dtype}"
            )
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor):  # the extra state of a layer
            raise NetworkError(
                f"{shown(name)}: a model file stores tensors only, but `{key}` is of type "
                f"{type(value).__name__}; use `register_buffer` instead of `get_extra_state`"
            )
    return model.train()


def weight_names(name: str) -> Callable[[str], str | None]:
    """Return what maps a weight's name in published files to its name in the network.

    It is the function `weight_name` of the network's file, and maps to None what the network does
    not have; where there is none, the names are the same.
    """
    module = import_module(f"{models.__name__}.{name}")
    return getattr(module, "weight_name", lambda published: published)


def head(model: nn.Module, classes: int) -> str | None:
    """Return the name of the last layer, which yields the logits; its input are the features.

    It is the last dense layer, or 1x1 convolution, with an output per class; None if there is none.
    """
    found = None
    for name, layer in model.named_modules():
        dense = isinstance(layer, nn.Linear) and layer.out_features == classes
        pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
        if dense or (pointwise and layer.out_channels == classes):
            found = name
    return found


def first_layer(model: nn.Module, shape: tuple[int, int, int]) -> str | None:
    """Return the name of the first layer's weights, if they can be drawn as one image per unit.

    These are the network's first weights, of a convolution over all channels or a dense layer over
    all pixels; otherwise None.
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
            f"train.model.name: no network `{one_line(name, 60)}` in src/image_pipeline/models; "
            f"the networks are {', '.join(names())}"
        )
    return path


def error_line(name: str, error: BaseException) -> str:
    """Return the file of a network, with the innermost of its lines in the traceback."""
    return shown(name, innermost_line(error, FOLDER / f"{name}.py"))


def shown(name: str, line: int | None = None) -> str:
    """Return the file of a network as messages show it, with a line where one is known."""
    path = f"src/image_pipeline/models/{name}.py"
    return f"{path}, line {line}" if line else path
