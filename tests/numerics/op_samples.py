"""Inputs that PyTorch tests its own operations, layers and optimizers with: few, always the same.

They come in its wheel: `torch.testing._internal` describes each operation by an `OpInfo`, and
makes its `SampleInput`s.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.testing import make_tensor
from torch.testing._internal.common_device_type import skipCPUIfNoLapack
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_optimizers import optim_db
from torch.testing._internal.opinfo import core
from torch.utils._pytree import tree_leaves, tree_map

from image_pipeline.training.optimizer import UNUSABLE, without_compiler

# Samples of an operation, at most.
SAMPLES = {
    torch.float32: 6,
    torch.float64: 4,
    torch.complex64: 2,
    torch.complex128: 2,
    torch.int64: 6,
}
VARIANTS = 2  # that also write in place and to `out`
NUMBERS = 1 << 13  # in a sample, at most

TYPES = torch.float32, torch.float64, torch.complex64, torch.complex128
Step = Callable[[], Any]

# Not for CPUs, of sparse or uninitialized tensors, or refused as not deterministic; the last one
# is no operation of PyTorch's before its first use.
IMPOSSIBLE = (
    *("jiterator", "torch._scaled", "batch_norm.without_cudnn", "sparse", "to_sparse", "empty"),
    *("new_empty", "chalf", "put", "max_unpool", "linear_cross_entropy"),
)
# Not the same on every processor: a logarithm of MKL's. The samples of the second call the first.
DIFFERENT = {"logit", "nn.functional.binary_cross_entropy"}


# It is no operation of PyTorch's before its first use; all parts of the other are here.
LAYERS_LEFT_OUT = {"nn.LinearCrossEntropyLoss", "nn.Transformer"}


def operations() -> list[Any]:
    """Return the `OpInfo`s of what can be the same on every processor."""
    return [
        op
        for op in op_db
        if skipCPUIfNoLapack not in op.decorators
        and op.name not in DIFFERENT
        and not op.full_name.removeprefix("nn.functional.").startswith(IMPOSSIBLE)
    ]


def dtypes(op: Any) -> list[torch.dtype]:
    """Return the dtypes to compute an operation in: integers only where there are no floats."""
    supported = op.supported_dtypes("cpu")
    return [dtype for dtype in TYPES if dtype in supported] or [torch.int64]


def samples(op: Any, dtype: torch.dtype) -> list[Any]:
    """Return inputs of an operation that differ in more than their numbers."""
    random.seed(0), np.random.seed(0), torch.default_generator.manual_seed(0)
    gradients = dtype in op.supported_backward_dtypes("cpu")
    drawn = op.sample_inputs_func(op, "cpu", dtype, gradients)
    limit = SAMPLES[dtype]
    found: dict[str, Any] = {}
    for sample in itertools.chain(wide(op, dtype, gradients), itertools.islice(drawn, 3 * limit)):
        if sum(tensor.numel() for tensor in tensors(sample.input, sample.args)) <= NUMBERS:
            found.setdefault(kind(sample), sample)
        if len(found) == limit:
            break
    return [*found.values()]


def tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def kind(sample: Any) -> str:
    """Return all of a sample but the numbers in its tensors."""
    values = (sample.input, sample.args, sample.kwargs)
    return repr(
        tree_map(
            lambda x: (x.dtype, x.shape, x.stride()) if isinstance(x, Tensor) else x,
            values,
        )
    )


@torch.no_grad()
def wide(op: Any, dtype: torch.dtype, gradients: bool) -> list[Any]:
    """Return inputs of an elementwise function that its vectorized loops take, and odd numbers."""
    options: dict[str, Any] = {"device": "cpu", "dtype": dtype}
    draw = partial(make_tensor, (53, 61), **options)
    if isinstance(op, core.UnaryUfuncInfo):
        kind = "unary"
        low, high = op.domain
        one = draw(
            low=None if low is None else low + 1e-5, high=None if high is None else high - 1e-5
        )
        found = [core.SampleInput(x) for x in (one, one.t()[3:, ::2])]
    elif isinstance(op, core.BinaryUfuncInfo):
        kind = "binary"
        one, two = draw(**op.lhs_make_tensor_kwargs), draw(**op.rhs_make_tensor_kwargs)
        found = [
            core.SampleInput(one, args=(two,)),
            core.SampleInput(one.t()[3:, ::2], args=(two.t()[3:, :1],)),
        ]
    else:
        return []
    for sample in found:
        sample.kwargs = op.sample_kwargs("cpu", dtype, one)[0]
    if dtype.is_floating_point:
        for name in ("small", "extremal"):
            make = getattr(core, f"generate_elementwise_{kind}_{name}_value_tensors")
            found.append(next(make(op, **options)))
    for tensor in tensors([(sample.input, sample.args) for sample in found]):
        tensor.requires_grad_(gradients)
    return found


def compute(op: Any, sample: Any, variants: bool) -> list[Any]:
    """Compute an operation and its derivative.

    Args:
        op: the operation.
        sample: its input.
        variants: compute also what writes in place and to `out`, where there is such.

    Returns:
        The results, their gradients, the same in place, and `out`; errors as their text.
    """
    arguments = sample.input, sample.args, sample.kwargs
    computed: list[Any] = []
    torch.default_generator.manual_seed(0)
    results = op(sample.input, *sample.args, **sample.kwargs)
    computed += [results, differentiate(results, *arguments)]
    if variants and op.inplace_variant:
        try:  # its dtype or its shape may not hold the result
            target = tree_map(torch.clone, sample.input)
            in_place = op.inplace_variant(target, *sample.args, **sample.kwargs)
            computed += [in_place, differentiate(in_place, *arguments)]
        except RuntimeError as error:
            computed.append(str(error))
    if variants and op.supports_out and isinstance(results, Tensor):
        try:
            with torch.no_grad():
                out = torch.zeros_like(results)
                computed.append(op(sample.input, *sample.args, **sample.kwargs, out=out))
        except RuntimeError as error:
            computed.append(str(error))
    return computed


def differentiate(results: Any, *inputs: Any) -> list[Tensor | None]:
    """Return the gradients of results by the inputs that require them."""
    leaves = [leaf for leaf in tensors(*inputs) if leaf.requires_grad]
    outputs = [output for output in tensors(results) if output.requires_grad]
    if not leaves or not outputs:
        return []
    given = [torch.linspace(-1, 1, o.numel()).reshape(o.shape).to(o.dtype) for o in outputs]
    return [*torch.autograd.grad(outputs, leaves, given, allow_unused=True)]


def steps_of_operation(op: Any, dtype: torch.dtype) -> Iterator[Step]:
    """Yield the computations of an operation."""
    for number, sample in enumerate(samples(op, dtype)):
        yield partial(compute, op, sample, number < VARIANTS)


def steps_of_layer(info: Any, dtype: torch.dtype) -> Iterator[Step]:
    """Yield the computations of a layer, or of a loss: in training, then in evaluation."""
    for training in (True, False) if info.train_and_eval_differ else (True,):
        drawn = info.module_inputs_func(info, "cpu", dtype, True, training)
        for sample in itertools.islice(drawn, SAMPLES[dtype]):
            torch.default_generator.manual_seed(0)
            made, given = sample.constructor_input, sample.forward_input
            layer = info.module_cls(*made.args, **made.kwargs).to(dtype).train(training)

            def step(layer: nn.Module = layer, given: Any = given) -> None:
                results = layer(*given.args, **given.kwargs)
                differentiate(results, given.args, given.kwargs, [*layer.parameters()])

            yield step


def steps_of_optimizer(info: Any, dtype: torch.dtype) -> Iterator[Step]:
    """Yield two steps of an optimizer with each of its options, of each implementation."""
    kinds: list[dict[str, Any]] = [
        {},
        *({kind: True} for kind in info.supported_impls if kind != "differentiable"),
    ]
    for sample, kind in itertools.product(info.optim_inputs_func("cpu"), kinds):
        if info.name == "SGD" and "fused" in kind and "momentum" not in sample.kwargs:
            continue  # it crashes qemu 10
        shapes = ((37, 19), (9, 5)) if info.name == "Muon" else ((37, 19), (19,), (3, 7, 5))
        torch.default_generator.manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
        optimizer = without_compiler(info.optim_cls)(weights, **sample.kwargs, **kind)

        def step(weights: list[nn.Parameter] = weights, optimizer: Any = optimizer) -> None:
            for _ in range(2):
                for weight in weights:
                    weight.grad = weight.detach() - 0.1
                optimizer.step()

        yield step


def cases() -> dict[str, tuple[Callable[[torch.dtype], Iterator[Step]], tuple[str, ...]]]:
    """Return the steps of each case, and its dtypes, as cases.py has them."""
    found: dict[str, Any] = {}
    for op in operations():
        types = tuple(str(dtype).removeprefix("torch.") for dtype in dtypes(op))
        found[f"operation {op.full_name}"] = (partial(steps_of_operation, op), types)
    for kind, infos, steps in (
        ("layer", module_db, steps_of_layer),
        ("optimizer", optim_db, steps_of_optimizer),
    ):
        for info in infos:
            if info.name not in {*UNUSABLE, *LAYERS_LEFT_OUT} and "Lazy" not in info.name:
                found[f"{kind} {info.name}"] = (partial(steps, info), ("float32", "float64"))
    return found
