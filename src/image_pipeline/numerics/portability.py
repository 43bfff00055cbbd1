"""Which operations of a training step are not verified to be bit-identical on every processor.

`operations.csv` lists those that are. A test verifies its rows: cases that use the operations run
natively and on emulated processors, and must give the same bits (`tests/numerics`). Its columns:

- `operation`: PyTorch's name, with the overload.
- `computed_by`: `torch`; `kernels` where its own is replaced (see `kernels`), `MLAS` where ONNX
  Runtime's library computes most of it (on ARM OpenBLAS its products); `MKL compatible` (MKL held
  to its portable kernels); `nothing` where no number is rounded: views, copies, fills, integers.
- `types`: floating-point dtypes it was verified for, on x86-64 processors.
- `on_arm`: those of them for which ARM processors give these bits, too.
- `evidence`: the case that verifies it.
"""

import csv
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from image_pipeline.numerics.torch_private import (
    OpOverload,
    TorchDispatchMode,
    has_kernel,
    next_autograd_node,
    running_autograd_node,
    tree_leaves,
)

OPERATIONS = Path(__file__).with_name("operations.csv")
OPERATIONS_SHOWN = "src/image_pipeline/numerics/operations.csv"

NOTHING = "nothing"  # `computed_by` of an operation that rounds no number
# Queries, profiling marks, and communication between processes: nothing is computed.
IGNORED_NAMESPACES = ("prim", "profiler", "c10d")

LOSS_SCOPE, OPTIMIZER_SCOPE = "the loss", "the optimizer"


class VerifiedOp(NamedTuple):
    """A row of `operations.csv`."""

    computed_by: str
    types: tuple[str, ...]
    on_arm: tuple[str, ...]
    evidence: str


def read_verified_ops() -> dict[str, VerifiedOp]:
    """Read `operations.csv`, by the operation's name."""
    with OPERATIONS.open(encoding="utf-8", newline="") as file:
        return {
            row["operation"]: VerifiedOp(
                row["computed_by"],
                tuple(row["types"].split()),
                tuple(row["on_arm"].split()),
                row["evidence"],
            )
            for row in csv.DictReader(file)
        }


def floating_types(*values: Any) -> set[str]:
    """Return the float and complex dtypes in (nested collections of) CPU tensors, by name."""
    return {
        str(tensor.dtype).removeprefix("torch.")
        for tensor in tree_leaves(values)
        if isinstance(tensor, Tensor)
        and tensor.device.type == "cpu"
        and (tensor.dtype.is_floating_point or tensor.dtype.is_complex)
    }


class OpObserver(TorchDispatchMode):  # type: ignore[misc,unused-ignore]
    """Calls a function after every operation, whose result it leaves as it is.

    Composite operations are decomposed, and the function sees their parts. (Autograd decomposes
    them by itself; without it, as in evaluation, they arrive whole.)

    Args:
        on_op: called with the operation, its positional and keyword arguments, and its result.
    """

    def __init__(self, on_op: Callable[[OpOverload, Any, Any, Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_op = on_op

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True imports the compiler, which takes a second; nothing is compiled here

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace in IGNORED_NAMESPACES:
            return func(*args, **kwargs)
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        self._on_op(func, args, kwargs, result)
        return result


@functools.cache
def _is_composite(func: OpOverload) -> bool:
    return has_kernel(func, "CompositeImplicitAutograd") and not has_kernel(func, "CPU")


class _Scope(NamedTuple):
    """A layer whose forward pass is running."""

    layer: str
    names: dict[nn.Module, str]  # of all layers of its network
    first_node: int  # sequence number of its first autograd node


class PortabilityCheck:
    """Looks up every operation of a training step in `operations.csv`; results stay as they are.

        with PortabilityCheck() as check:
            loss = cross_entropy(model(images), labels)
            loss.backward()
        check.unverified_ops  # such as {"aten.tan.default": "blocks.3"}

    Attributes:
        unverified_ops: operations that are not in `operations.csv`, or not for a dtype (then
            named, as in `aten.mm.default (bfloat16)`), each with the scope that first ran it: a
            layer's name within the network, or its class if it has none; "the loss" for what
            follows the network, "the optimizer", or "" for what precedes the network.
        x86_only_ops: those that are listed, but not for ARM, likewise.
    """

    def __init__(self) -> None:
        self.unverified_ops: dict[str, str] = {}
        self.x86_only_ops: dict[str, str] = {}
        self._verified = read_verified_ops()
        self._observer = OpObserver(self._check_op)
        self._hooks: list[Any] = []
        self._scopes: list[_Scope] = []
        # Autograd nodes are numbered in order of creation: a layer's lie between the numbers at
        # its start and its end, which gives the layer of every operation of the backward pass.
        self._node_ranges: list[tuple[int, int, str]] = []
        self._scope_outside = ""

    def __enter__(self) -> Self:
        self._hooks = [
            register_module_forward_pre_hook(self._enter_layer),
            register_module_forward_hook(self._exit_layer, always_call=True),
            register_optimizer_step_pre_hook(self._enter_optimizer),
            register_optimizer_step_post_hook(self._exit_optimizer),
        ]
        self._observer.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        self._observer.__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def warnings(self) -> list[str]:
        """Return a line for each of the `unverified_ops`."""
        return [
            f"WARNING: the operation {operation}{_in_scope(scope)} is not verified to give the "
            f"same bits on every processor ({OPERATIONS_SHOWN}): the model is not portable."
            for operation, scope in self.unverified_ops.items()
        ]

    def _check_op(self, func: OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        operation = str(func)
        verified = self._verified.get(operation)
        if verified is None:
            leaves = tree_leaves((args, kwargs, result))
            devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
            if not devices or "cpu" in devices:
                self.unverified_ops.setdefault(operation, self._scope())
        elif verified.computed_by != NOTHING:
            for type_ in sorted(floating_types(args, kwargs, result) - set(verified.on_arm)):
                listed = type_ in verified.types
                found = self.x86_only_ops if listed else self.unverified_ops
                found.setdefault(operation if listed else f"{operation} ({type_})", self._scope())

    def _scope(self) -> str:
        """Return the scope of the operation that has just run."""
        if self._scopes:
            return self._scopes[-1].layer
        number = running_autograd_node()
        if number is None:
            return self._scope_outside
        # Inner layers end before the layers they are part of, so the first match is the innermost.
        return next(
            (layer for first, end, layer in self._node_ranges if first <= number < end), LOSS_SCOPE
        )

    def _enter_layer(self, module: nn.Module, _inputs: Any) -> None:
        names = self._scopes[-1].names if self._scopes else {}
        if module not in names:  # the network itself, or one created during the pass
            names = {layer: name for name, layer in module.named_modules()}
        layer = names[module] or type(module).__name__
        self._scopes.append(_Scope(layer, names, next_autograd_node()))

    def _exit_layer(self, _module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        layer, _, first = self._scopes.pop()
        self._node_ranges.append((first, next_autograd_node(), layer))
        self._scope_outside = LOSS_SCOPE

    def _enter_optimizer(self, *_: Any) -> None:
        self._scope_outside = OPTIMIZER_SCOPE

    def _exit_optimizer(self, *_: Any) -> None:
        self._scope_outside = ""


def _in_scope(scope: str) -> str:
    if scope in (LOSS_SCOPE, OPTIMIZER_SCOPE):
        return f" in {scope}"
    return f" in the layer `{scope}`" if scope else ""
