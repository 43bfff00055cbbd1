"""Every private member of PyTorch that is used here, with its reason; no other module has any.

(`distributed/elastic_private.py` has those of its elastic agent, whose import takes a second.) An
upgrade may take one away: `tests/repository/test_private_members.py` says then which.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

# The class of an operation with its overload: there is no public name.
from torch._ops import OpOverload

# The only way to see every operation of a step, the backward pass included.
from torch.utils._python_dispatch import TorchDispatchMode

# How dispatch modes flatten arguments; the public `torch.utils.pytree` is not in all versions.
from torch.utils._pytree import tree_leaves

__all__ = ["OpOverload", "TorchDispatchMode", "tree_leaves"]

# What `torch.library.get_kernel(...).call_boxed` takes as its first argument.
CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def has_kernel(func: OpOverload, key: str) -> bool:
    """Tell whether an operation has a kernel of its own for a dispatch key.

    `torch.library.get_kernel` also returns those that are derived from another key's.
    """
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


def next_autograd_node() -> int:
    """Return the number of the autograd node that is created next: they are numbered in order."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number


def running_autograd_node() -> int | None:
    """Return the number of the node whose backward pass is running; None outside of one.

    Hooks of modules and tensors do not tell to which layer an operation of that pass belongs.
    """
    node: Any = torch._C._current_autograd_node()
    return None if node is None else int(node._sequence_nr())


def layer_versions(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the versions in which a state dict's layers were saved.

    `state_dict` returns them, and `load_state_dict` reads them, under this name only.
    """
    versions: dict[str, dict[str, Any]] = state._metadata  # type: ignore[attr-defined]
    return versions


def set_layer_versions(state: dict[str, Any], versions: Mapping[str, Mapping[str, Any]]) -> None:
    """Set them in a state dict that a module has returned."""
    state._metadata = versions  # type: ignore[attr-defined]


@contextmanager
def quiet_onnx_exporter() -> Iterator[None]:
    """Keep the exporter from printing the whole graph when it fails; there is no option for it."""
    from torch.onnx._internal.torchscript_exporter import utils as exporter

    verbose = exporter.setup_onnx_logging
    exporter.setup_onnx_logging = nullcontext  # type: ignore[assignment]
    try:
        yield
    finally:
        exporter.setup_onnx_logging = verbose
