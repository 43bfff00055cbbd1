"""Which operations of a training step are not known to give the same bits on every processor.

`operations.csv` lists those that are. Its entries are proved by a test: cases that hold them are
computed natively and on emulated processors, and must give the same bits (`tests/numerics`). Its
columns:

- `operation`: as PyTorch names it, with its overload.
- `computed_by`: `NumPy`, `torch`, `oneDNN` or `MKL compatible` (MKL held to its portable kernels),
  or `nothing` where no number is rounded: views, copies, fills, integers.
- `types`: of the floats, for which it was proved.
- `evidence`: the case that proves it.
"""

import csv
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

OPERATIONS = Path(__file__).with_name("operations.csv")
OPERATIONS_SHOWN = "src/image_pipeline/numerics/operations.csv"

NOTHING = "nothing"  # computes an operation whose result has the bits of what goes in

THE_LOSS, THE_OPTIMIZER = "the loss", "the optimizer"


class Proof(NamedTuple):
    """A line of the list."""

    computed_by: str
    types: tuple[str, ...]
    evidence: str


def read_operations(path: Path = OPERATIONS) -> dict[str, Proof]:
    """Return the list, by the operation's name."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row["operation"]: Proof(
                row["computed_by"], tuple(row["types"].split()), row["evidence"]
            )
            for row in csv.DictReader(file)
        }


def floating_types(*values: Any) -> set[str]:
    """Return the types of the floats, complex ones included, in (lists of) tensors on the CPU."""
    return {
        str(tensor.dtype).removeprefix("torch.")
        for tensor in _tensors(values)
        if tensor.device.type == "cpu"
        and (tensor.dtype.is_floating_point or tensor.dtype.is_complex)
    }


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


class Operations(TorchDispatchMode):  # type: ignore[misc,unused-ignore]
    """Shows every operation to a function, after it was computed as it would have been.

    Those that are made of others are not operations here, but the others are. (Autograd takes them
    apart by itself; without it, as in evaluation, they arrive whole.)
    """

    def __init__(self, show: Callable[[OpOverload, Any, Any, Any], None]) -> None:
        """Begin.

        Args:
            show: is given the operation, its arguments, its named arguments, and its result.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._show = show

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to skip it imports the compiler: a second

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace in ("prim", "profiler"):
            return func(*args, **kwargs)
        if _is_made_of_others(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        self._show(func, args, kwargs, result)
        return result


@functools.cache
def _is_made_of_others(func: OpOverload) -> bool:
    def has(key: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)

    return has("CompositeImplicitAutograd") and not has("CPU")


class _Scope(NamedTuple):
    """A call of a layer."""

    layer: str
    names: dict[nn.Module, str]  # of the layers of the network that it belongs to
    first_node: int


class PortabilityCheck:
    """Holds every operation against the list, while a step runs within it.

        with PortabilityCheck() as check:
            loss = cross_entropy(model(images), labels)
            loss.backward()
        check.unproved  # such as {"aten.tan.default": "blocks.3"}

    It only looks on: every operation is computed as it would have been.

    Attributes:
        unproved: operations that are not on the list, and those on it that were not proved for
            floats of a type (then named, as in `aten.mm.default (bfloat16)`); of each, the layer
            that it came from first: a layer's name within the network, or the class of one that
            has none; "the loss" after the network, "the optimizer", or "" before the network.
    """

    def __init__(self) -> None:
        self.unproved: dict[str, str] = {}
        self._proved = read_operations()
        self._operations = Operations(self._hold_against_the_list)
        self._hooks: list[Any] = []
        self._scopes: list[_Scope] = []
        # Nodes of the graph of derivatives are numbered: those that a layer made lie between the
        # numbers at its start and its end, which tells the layer of every step back.
        self._made_nodes: list[tuple[int, int, str]] = []
        self._outside = ""

    def __enter__(self) -> Self:
        self._hooks = [
            register_module_forward_pre_hook(self._layer_starts),
            register_module_forward_hook(self._layer_ends, always_call=True),
            register_optimizer_step_pre_hook(self._optimizer_starts),
            register_optimizer_step_post_hook(self._optimizer_ends),
        ]
        self._operations.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._operations.__exit__(exc_type, exc_value, traceback)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def warnings(self) -> list[str]:
        """Return a line for each operation that is not on the list."""
        return [
            f"WARNING: the operation {operation}{_in_words(layer)} is not on the list of those "
            f"whose bits are the same on every processor ({OPERATIONS_SHOWN}): "
            "the model counts as not portable."
            for operation, layer in self.unproved.items()
        ]

    def _hold_against_the_list(self, func: OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        operation = str(func)
        proof = self._proved.get(operation)
        if proof is None:
            tensors = list(_tensors((args, kwargs, result)))
            if not tensors or any(tensor.device.type == "cpu" for tensor in tensors):
                self.unproved.setdefault(operation, self._layer())
        elif proof.computed_by != NOTHING:
            for type_ in sorted(floating_types(args, kwargs, result) - set(proof.types)):
                self.unproved.setdefault(f"{operation} ({type_})", self._layer())

    def _layer(self) -> str:
        """Return what the operation that is computed now belongs to."""
        if self._scopes:
            return self._scopes[-1].layer
        node: Any = torch._C._current_autograd_node()  # None outside of the way back
        if node is None:
            return self._outside
        number = node._sequence_nr()
        # Layers end before those that they are part of: the first is the innermost.
        return next(
            (layer for first, end, layer in self._made_nodes if first <= number < end), THE_LOSS
        )

    def _layer_starts(self, module: nn.Module, _inputs: Any) -> None:
        names = self._scopes[-1].names if self._scopes else {}
        if module not in names:  # the network itself, or one made on the fly
            names = {layer: name for name, layer in module.named_modules()}
        layer = names[module] or type(module).__name__
        self._scopes.append(_Scope(layer, names, torch._C._autograd._get_sequence_nr()))

    def _layer_ends(self, _module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        layer, _, first = self._scopes.pop()
        self._made_nodes.append((first, torch._C._autograd._get_sequence_nr(), layer))
        self._outside = THE_LOSS

    def _optimizer_starts(self, *_: Any) -> None:
        self._outside = THE_OPTIMIZER

    def _optimizer_ends(self, *_: Any) -> None:
        self._outside = ""


def _in_words(layer: str) -> str:
    if layer in (THE_LOSS, THE_OPTIMIZER):
        return f" in {layer}"
    return f" in the layer `{layer}`" if layer else ""
