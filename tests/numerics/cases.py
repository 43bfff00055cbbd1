"""What common networks compute, to compare processors: the evidence behind `operations.csv`.

    python tests/numerics/cases.py            # prints a line of JSON for each case
    python tests/numerics/cases.py --write    # rewrites operations.csv from the cases

Every case is computed in float32 and, unless it says otherwise, in float64. A line has the case,
the dtype, and each operation that ran, with the dtypes of its floats and a hash of all that it
wrote. `pipeline/test_networks.py` requires the same lines from several processors. To verify
another operation, add a case that uses it, run `--write`, and run that test, which needs
`qemu-x86_64` of version 10.

`logit` is missing: it takes its logarithm from MKL.
"""

# ruff: noqa: E731
# mypy: disable-error-code="misc, call-overload, func-returns-value, union-attr"

import csv
import hashlib
import inspect
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

if __name__ == "__main__":
    from image_pipeline import numerics

    numerics.pin("portable")

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn, optim

from image_pipeline.augmenting.augmentation import augment
from image_pipeline.augmenting.params import AUGMENTATION_AMOUNTS, AugmentationParams
from image_pipeline.numerics.portability import NOTHING, OPERATIONS, OpObserver, floating_types
from image_pipeline.training.optimizer import without_compiler

FLOAT, DOUBLE = "float32", "float64"
LISTED_TYPES = (FLOAT, DOUBLE, "complex64", "complex128")
Seen = dict[str, tuple[list[str], str]]  # operation: types of its floats, hash of what it wrote

# --- What is recorded ---

# What they return may be uninitialized memory.
UNINITIALIZED = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("copy_", "resize_", "set_"),
}
# Operations some of whose results only serve the backward pass and are partly uninitialized.
SCRATCH: dict[str, Callable[[Any], Any]] = {
    "_ctc_loss": lambda results: results[0],
    "mkldnn_rnn_layer": lambda results: results[:3],
}


class Recorder:
    """Records every operation, and hashes what each one writes."""

    def __init__(self) -> None:
        self._types: dict[str, set[str]] = {}
        self._digests: dict[str, Any] = {}

    def record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._types.setdefault(str(func), set()).update(floating_types(args, kwargs, result))
        digest = self._digests.setdefault(str(func), hashlib.sha256())
        name = func.__name__.split(".")[0]
        if func.is_view or name in UNINITIALIZED:
            return
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        written = [
            named[argument.name]
            for argument in func._schema.arguments
            if argument.alias_info and argument.alias_info.is_write and argument.name in named
            if argument.name != "noise"  # of rrelu, which writes it in training only
        ]
        update(digest, written, SCRATCH.get(name, lambda results: results)(result))

    def seen(self) -> Seen:
        return {
            name: (sorted(self._types[name]), digest.hexdigest()[:16])
            for name, digest in sorted(self._digests.items())
        }


def update(digest: Any, *values: Any) -> None:
    for value in values:
        if isinstance(value, Tensor):
            digest.update(str((value.dtype, tuple(value.shape))).encode())
            if value.dtype in (torch.float16, torch.bfloat16):
                value = value.view(torch.int16)
            digest.update(np.ascontiguousarray(value.numpy(force=True)))
        elif isinstance(value, (tuple, list)):
            update(digest, *value)
        elif value is not None:
            digest.update(repr(value).encode())


# --- How cases are written ---

CASES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {}
_rng = np.random.default_rng()
_name: str
_make: Callable[[], nn.Module]
_shape: tuple[int, ...]


def case(name: str, compute: Callable[[], Any], types: tuple[str, ...] = (FLOAT, DOUBLE)) -> None:
    assert name not in CASES, name
    CASES[name] = (compute, types)


def words(text: str) -> list[str]:
    return text.split()


def normal(*shape: int) -> Tensor:
    return torch.from_numpy(_rng.standard_normal(shape)).to(torch.get_default_dtype())


def complex_normal(*shape: int) -> Tensor:
    return torch.complex(normal(*shape), normal(*shape))


def uniform(*shape: int) -> Tensor:
    """From 0.05 to 0.95."""
    return torch.from_numpy(_rng.uniform(0.05, 0.95, shape)).to(torch.get_default_dtype())


def classes(count: int, *shape: int) -> Tensor:
    return torch.from_numpy(_rng.integers(0, count, shape))


def learn(compute: Callable[..., Any], *inputs: Tensor) -> Any:
    """Compute forward and backward, with gradients of the inputs and of a module's parameters."""
    inputs = tuple(
        value.clone().requires_grad_() if value.is_floating_point() or value.is_complex() else value
        for value in inputs
    )
    outputs = compute(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else [o for o in outputs if o is not None]
    outputs = [output for output in outputs if output.requires_grad]
    torch.autograd.backward(
        outputs,
        [(complex_normal if o.is_complex() else normal)(*o.shape).to(o.dtype) for o in outputs],
    )


def fill(module: nn.Module) -> nn.Module:
    """Set every floating-point parameter and buffer to values that are cheap to draw."""
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(
                    0.1 + 0.1 * normal(*tensor.shape) ** 2
                    if tensor.dim() < 2
                    else 0.1 * normal(*tensor.shape)
                )
    return module


def both_modes(make: Callable[[], nn.Module], *shape: int, channels_last: bool = False) -> None:
    """Run a module forward and backward in both modes, then in evaluation without gradients."""
    module = fill(make())
    x = normal(*shape)
    if channels_last:
        module.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    torch.manual_seed(1)
    learn(module, x)
    module.eval()
    learn(module, x)
    with torch.inference_mode():
        module(x)


def layer(
    name: str,
    make: Callable[[], nn.Module],
    *shape: int,
    last: bool = False,
    types: tuple[str, ...] = (FLOAT, DOUBLE),
) -> None:
    """Add a case of a module; with `last`, another in channels_last."""
    case(name, lambda: both_modes(make, *shape), types)
    if last:
        name = f"{name}, channels_last"
        case(name, lambda: both_modes(make, *shape, channels_last=True), (FLOAT,))


def run(name: str, type_: str) -> dict[str, Any]:
    """Compute a case; return its line."""
    global _rng
    compute, _ = CASES[name]
    _rng = np.random.default_rng(list(name.encode()))
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, type_))
    try:
        recorder = Recorder()
        with OpObserver(recorder.record), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compute()
    except Exception as error:
        raise RuntimeError(f"the case {name!r} in {type_}: {error}") from error
    finally:
        torch.set_default_dtype(torch.float32)
    seen = recorder.seen()
    total = hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
    return {"case": name, "type": type_, "hash": total, "operations": seen}


def run_all() -> Iterator[dict[str, Any]]:
    for name, (_, types) in CASES.items():
        for type_ in types:
            yield run(name, type_)


def differences(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[str]:
    """Return where the lines of two processors differ."""
    found = []
    for a, b in zip(one, other, strict=True):
        assert (a["case"], a["type"]) == (b["case"], b["type"])
        operations = a["operations"].keys() | b["operations"].keys()
        found += [
            f"{operation} in the case {a['case']!r} in {a['type']}"
            for operation in sorted(operations)
            if a["operations"].get(operation) != b["operations"].get(operation)
        ]
    return found


# --- One operation each ---

UNARY = words(
    """
    abs absolute acos acosh angle asin asinh atan atanh ceil cos cosh deg2rad digamma erf erfc
    erfinv exp exp2 expm1 floor frac i0 lgamma log log10 log1p log2 nan_to_num neg positive
    rad2deg reciprocal round rsqrt sigmoid sign signbit sgn sin sinc sinh sqrt square tan tanh
    trunc isnan isinf isfinite logical_not special.entr special.ndtr special.ndtri
    special.log_ndtr special.erfcx special.i0e special.i1 special.i1e special.bessel_j0
    special.bessel_j1
    """
)
OF_ONE_UP = {"acosh"}
IN_PLACE = words(
    """
    abs_ acos_ asin_ atan_ ceil_ cos_ cosh_ digamma_ erf_ erfc_ erfinv_ exp_ exp2_ expm1_ floor_
    frac_ lgamma_ log_ log10_ log1p_ log2_ neg_ reciprocal_ round_ rsqrt_ sigmoid_ sign_ sin_
    sinh_ sqrt_ square_ tan_ tanh_ trunc_ zero_
    """
)


def unary(name: str) -> None:
    function: Any = torch
    for part in name.split("."):
        function = getattr(function, part)
    values = 1 + 3 * uniform(1037) if name in OF_ONE_UP else uniform(1037)
    learn(function, values)
    with torch.no_grad():
        for scale in (1e-4, 3.0, 40.0):  # outside the domain of some, where NaN is right
            function(normal(1037) * scale).isnan()
        function(uniform(17, 61).t()[3:, ::2])
        function(torch.tensor([0.5]))


for _name in UNARY:
    case(_name, lambda name=_name: unary(name))
case("in-place unary", lambda: [getattr(uniform(1037), name)() for name in IN_PLACE])

ACTIVATIONS = words(
    """
    relu relu6 elu selu celu gelu silu mish softplus softsign hardtanh hardswish hardsigmoid
    leaky_relu logsigmoid tanhshrink softshrink hardshrink threshold softmin tanh sigmoid
    """
)
for _name in ACTIVATIONS:
    function = getattr(F, _name)
    if _name == "threshold":
        function = lambda x: F.threshold(x, 0.1, -0.2)
    if _name == "softmin":
        function = lambda x: F.softmin(x, dim=1)
    case(
        f"activation {_name}",
        lambda f=function: (
            learn(f, 2 * normal(61, 37)),
            learn(f, normal(2, 5, 3, 7).to(memory_format=torch.channels_last)),
        ),
    )
case("activation gelu tanh", lambda: learn(lambda x: F.gelu(x, approximate="tanh"), normal(61, 37)))
case("activation prelu", lambda: learn(F.prelu, normal(9, 5, 7), normal(5)))
case("activation glu", lambda: learn(lambda x: F.glu(x, 1), normal(9, 34)))
case(
    "activation rrelu",
    lambda: (
        learn(lambda x: F.rrelu(x, training=True), normal(61, 37)),
        learn(lambda x: F.rrelu(x), normal(61, 37)),
    ),
)
case(
    "activations in place",
    lambda: [
        f(normal(61, 37))
        for f in (
            F.relu_,
            F.elu_,
            F.selu_,
            F.celu_,
            F.leaky_relu_,
            F.hardtanh_,
            F.rrelu_,
            lambda x: F.silu(x, inplace=True),
            lambda x: F.mish(x, inplace=True),
            lambda x: F.hardswish(x, inplace=True),
            lambda x: F.hardsigmoid(x, inplace=True),
            lambda x: F.relu6(x, inplace=True),
            lambda x: F.threshold(x, 0.1, 2.0, inplace=True),
        )
    ],
)
case(
    "activations in place, backward",
    lambda: [
        learn(lambda x, f=f: f(x * 1.5), normal(61, 37))
        for f in (
            F.relu_,
            F.elu_,
            F.leaky_relu_,
            F.hardtanh_,
            F.rrelu_,
            lambda x: F.silu(x, inplace=True),
            lambda x: F.mish(x, inplace=True),
            lambda x: F.hardswish(x, inplace=True),
            lambda x: F.hardsigmoid(x, inplace=True),
            lambda x: F.relu6(x, inplace=True),
        )
    ],
)

BINARY = words(
    """
    add sub mul div true_divide maximum minimum fmax fmin pow atan2 hypot fmod remainder
    floor_divide copysign xlogy logaddexp logaddexp2 heaviside nextafter ldexp eq ne lt le gt ge
    logical_and logical_or logical_xor float_power
    """
)


def binary(name: str) -> None:
    function = getattr(torch, name)
    pairs = [
        (uniform(31, 37), uniform(31, 37)),
        (uniform(31, 37), uniform(37)),
        (uniform(31, 37), uniform(31, 1)),
        (uniform(37, 31).t(), uniform(31, 37)),
    ]
    for a, b in pairs:
        try:
            learn(function, a, b)
        except RuntimeError:  # it has no derivative
            function(a, b)
    if name not in words(
        """
        maximum minimum fmax fmin atan2 hypot copysign logaddexp logaddexp2 heaviside
        nextafter logical_and logical_or logical_xor ldexp
        """
    ):
        function(normal(1037), 1.7)
    if hasattr(torch.Tensor, f"{name}_") and name not in ("true_divide", "ldexp", "float_power"):
        getattr(uniform(31, 37), f"{name}_")(uniform(31, 37))


for _name in BINARY:
    case(_name, lambda name=_name: binary(name))


def scalars() -> None:
    x = normal(1037)
    learn(lambda x: ((x + 1.5) * 0.3 - 0.1) / 0.7, x)
    learn(lambda x: (1.5 - x) * (2.0 / (x.abs() + 1)), x)
    learn(lambda x: (-x) ** 2 + x**3 + (x.abs() + 0.1) ** -2 + 2**x, x)
    learn(lambda x: (x.abs() + 0.1) ** 0.5 + (x.abs() + 0.1) ** -0.5 + (x.abs() + 0.1) ** -1, x)
    learn(lambda x: (x.abs() + 0.1) ** 1.7 + (x.abs() + 0.1) ** torch.tensor(0.5), x)
    learn(lambda x: x % 0.7 + x.fmod(0.3), x)
    y = normal(1037)
    y.add_(0.5).sub_(0.1).mul_(1.1).div_(0.9).pow_(2).pow_(0.5).clamp_(0.1, 1).clamp_min_(0.2)
    y.add_(x, alpha=0.3).sub_(x, alpha=0.2).mul_(x).div_(x).addcmul_(x, x, value=0.3)
    y.addcdiv_(x, x.abs() + 1, value=0.4).lerp_(x, 0.3).lerp_(x, x.abs()).copysign_(x)
    y.abs_().pow_(1.3).fmod_(0.4).remainder_(0.3).clamp_max_(0.9).neg_().exp_().log_()
    torch.rsub(x, y, alpha=0.3), torch.rsub(x, 2.0)
    y.add(torch.tensor(2.0)), y.mul(torch.tensor(2.0)), torch.tensor(2.0).div(x)


case("arithmetic with numbers", scalars)
case(
    "addcmul addcdiv lerp",
    lambda: [
        learn(f, normal(31, 37), uniform(31, 37), uniform(31, 37))
        for f in (
            lambda a, b, c: torch.addcmul(a, b, c, value=0.3),
            lambda a, b, c: torch.addcdiv(a, b, c, value=0.3),
            torch.lerp,
            lambda a, b, c: torch.lerp(a, b, 0.3) + c,
            lambda a, b, c: torch.where(a > 0, b, c),
        )
    ],
)
case(
    "clamp",
    lambda: [
        learn(f, normal(31, 37))
        for f in (
            lambda x: x.clamp(-0.5, 0.5),
            lambda x: x.clamp(min=0.1),
            lambda x: x.clamp(max=0.2),
            lambda x: x.clamp_min(0.1),
            lambda x: x.clamp_max(0.3),
            lambda x: x.clamp(x.detach() - 0.1, x.detach() * 0 + 0.3),
        )
    ],
)


def integers() -> None:
    x, y = classes(100, 31, 37), 1 + classes(9, 31, 37)
    for name in words(
        """
        add sub mul floor_divide remainder maximum minimum eq ne lt le gt ge bitwise_and
        bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift
        """
    ):
        getattr(torch, name)(x, y)
    x + 1, x * 2, x // 3, x % 7, x == 3, x != 3, x < 3, x <= 3, x > 3, x >= 3, -x, ~x, x.abs()
    x.sum(), x.sum(0), x.max(), x.min(), x.argmax(1), x.cumsum(0), x.prod(1)
    (
        (x > 3).any(),
        (x > 3).all(),
        (x > 3).any(1),
        (x > 3).all(1),
        (x > 3) & (y > 2),
        (x > 3) | (y > 2),
    )
    (x > 3) ^ (y > 2), ~(x > 3), (x > 3).sum(), (x > 3).nonzero(), torch.bincount(x.reshape(-1))
    x / y, x.float().mean(), x.sqrt(), x**0.5, x**2, torch.unique(x), x.sort(1), x.topk(3, 1)
    (
        F.one_hot(x, 100),
        torch.count_nonzero(x),
        x.clone().add_(1).mul_(2).sub_(3),
    )
    (
        torch.isin(x, y),
        torch.searchsorted(torch.arange(0, 100, 7), x),
        torch.bucketize(x, torch.arange(0, 100, 7)),
    )
    x[0, 0].item(), bool((x > 3)[0, 0]), x[x > 3]


case("integers and truth values", integers)

# --- Sums along dimensions, orders ---

REDUCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "sum": lambda x: [x.sum(), x.sum(0), x.sum(1), x.sum(-1, keepdim=True), x.sum((0, 2))],
    "mean": lambda x: [x.mean(), x.mean(0), x.mean(1), x.mean((1, 2), keepdim=True)],
    "std var": lambda x: [x.std(), x.std(0), x.var(1), x.var((0, 2), correction=0)],
    "std_mean var_mean": lambda x: [*torch.std_mean(x, 1), *torch.var_mean(x, (0, 1))],
    "prod": lambda x: [(1 + 0.01 * x).prod(), (1 + 0.01 * x).prod(1)],
    "logsumexp": lambda x: [x.logsumexp(1), x.logsumexp((0, 2))],
    "max min": lambda x: [
        x.max(),
        x.min(),
        x.max(1).values,
        x.min(2).values,
        x.amax((0, 1)),
        x.amin(1),
    ],
    "aminmax": lambda x: [*x.aminmax()],
    "norms": lambda x: [
        x.norm(),
        x.norm(dim=1),
        x.norm(1),
        x.norm(3, dim=0),
        torch.linalg.norm(x, dim=1),
        torch.linalg.vector_norm(x, 2, (0, 1)),
        torch.linalg.vector_norm(x, 1, 1),
        torch.linalg.vector_norm(x, float("inf"), 1),
        torch.linalg.vector_norm(x, 2.5, 1),
        torch.linalg.matrix_norm(x),
    ],
    "cumsum": lambda x: [x.cumsum(0), x.cumsum(1), x.cumsum(2)],
    "cumprod": lambda x: [(1 + 0.01 * x).cumprod(1)],
    "cummax cummin logcumsumexp": lambda x: [
        x.cummax(1).values,
        x.cummin(2).values,
        x.logcumsumexp(1),
    ],
    "median quantile kthvalue": lambda x: [
        x.median(),
        x.median(1).values,
        x.kthvalue(3, 2).values,
        x.quantile(0.3),
        x.quantile(torch.tensor([0.1, 0.7]), dim=1),
        x.mode(1).values,
    ],
    "sort topk": lambda x: [
        x.sort(1).values,
        x.sort(dim=2, descending=True, stable=True).values,
        x.topk(5, 1).values,
        x.msort(),
    ],
    "normalize": lambda x: [F.normalize(x, dim=1), F.normalize(x, p=1.0, dim=2)],
    "cosine similarity": lambda x: [
        F.cosine_similarity(x, x.flip(0), dim=1),
        F.pairwise_distance(x, x.flip(0)),
    ],
    "renorm dist": lambda x: [x.renorm(2, 0, 1.0), torch.dist(x, x.flip(0))],
    "softmax": lambda x: [x.softmax(0), x.softmax(1), x.softmax(2)],
    "log_softmax": lambda x: [x.log_softmax(0), x.log_softmax(1), x.log_softmax(2)],
    "diff trapezoid": lambda x: [x.diff(dim=1), torch.trapezoid(x, dim=1)],
    "cdist": lambda x: [
        torch.cdist(x, x.flip(1)),
        torch.cdist(x, x.flip(1), p=1.0),
        torch.cdist(x[:, :30], x[:, :29], compute_mode="use_mm_for_euclid_dist"),
    ],
}
for _name, _reduce in REDUCTIONS.items():
    case(
        _name,
        lambda f=_reduce: (
            learn(f, normal(3, 41, 19)),
            learn(f, normal(17, 35, 3).transpose(0, 2)),
            learn(f, normal(2, 9, 4)),
        ),
    )
case(
    "sums of many",
    lambda: [
        learn(lambda x: [x.sum(), x.mean(), x.var(), x.norm()], normal(70001)),
        normal(3, 20011).sum(1),
        normal(20011, 3).sum(0),
        normal(20011, 3).mean(0),
    ],
)
case(
    "argmax argmin argsort",
    lambda: [
        f(normal(31, 37))
        for f in (
            torch.argmax,
            torch.argmin,
            lambda x: x.argmax(1),
            lambda x: x.argmin(0),
            lambda x: x.argsort(1),
            lambda x: x.argsort(dim=1, stable=True),
            lambda x: torch.equal(x, x),
            lambda x: torch.allclose(x, x),
            lambda x: x.histc(10),
            lambda x: torch.unique(x.round()),
            lambda x: (x > 0).nonzero(),
            lambda x: torch.histogram(x, 7).hist,
            lambda x: torch.isclose(x, x),
            lambda x: x.any(),
            lambda x: x.all(1),
            lambda x: x.nansum(),
            lambda x: x.nanmean(1),
            lambda x: torch.count_nonzero(x, 1),
        )
    ],
)

# --- Views, copies, fills, choices ---


def shapes() -> None:
    def views(x: Tensor) -> list[Tensor]:  # [4, 6, 10]
        a, b = x.chunk(2, 1)
        c, d, e = x.split([1, 2, 3], 1)
        return [
            x.view(24, 10),
            x.reshape(4, -1),
            x.flatten(1),
            x.transpose(0, 1),
            x.permute(2, 0, 1),
            x.unsqueeze(1).squeeze(1),
            x[1],
            x[:, 2:5],
            x[..., ::2],
            a + b,
            c.sum() + d.sum() + e.sum(),
            x.expand(3, 4, 6, 10),
            x.narrow(2, 1, 3),
            x.select(1, 2),
            x.unbind(0)[1],
            x.t() if x.dim() < 3 else x.mT,
            x.movedim(0, 2),
            x.swapaxes(0, 1),
            x.unflatten(1, (2, 3)),
            x.diagonal(dim1=1, dim2=2),
            x.squeeze(),
            x.as_strided((3, 5), (10, 1)),
            x.view_as(x),
            x.unfold(2, 3, 2),
            x.contiguous(),
            x.transpose(0, 1).contiguous(),
            x.repeat(2, 1, 1),
            x.repeat_interleave(2, 1),
            torch.cat([x, x], 1),
            torch.stack([x, x]),
            x.flip(1),
            x.roll(1, 2),
            x.roll((1, 2), (0, 1)),
            x.rot90(1, (1, 2)),
            x.tile(2),
            torch.hstack([x, x]),
            torch.vstack([x, x]),
            x.clone(),
            torch.diag_embed(x),
            x.tril(),
            x.triu(1),
            torch.tensor_split(x, 3, 2)[1],
            torch.unbind(x, 1)[0],
            torch.atleast_2d(x),
            x.ravel(),
            x.to(torch.float16).to(x.dtype),
            x.to(torch.bfloat16).to(x.dtype),
            x.double().to(x.dtype),
            x.float().to(x.dtype),
            x.real,
            x.type_as(x),
            x.masked_fill(x > 0, 0.3),
            x,
            x.index_select(1, torch.tensor([0, 2, 2])),
            x.gather(1, torch.tensor([[[0] * 10]] * 4)),
            x[torch.tensor([0, 2])],
            x[:, torch.tensor([1, 1, 0])],
            x[torch.tensor([0, 1]), torch.tensor([2, 3])],
            x[x > 0],
            x.masked_select(x > 0),
            x.take(torch.tensor([1, 5])),
            x.take_along_dim(torch.tensor([[[0] * 10]] * 4), 1),
            x.scatter(1, torch.tensor([[[0] * 10]] * 4), 0.5),
            x.scatter(1, torch.tensor([[[0] * 10] * 6] * 4), x),
            x.scatter_add(1, torch.tensor([[[0] * 10] * 6] * 4), x),
            x.index_add(0, torch.tensor([0, 0]), x[:2]),
            x.index_copy(0, torch.tensor([1, 0]), x[:2]),
            x.index_fill(1, torch.tensor([1]), 0.2),
            x.index_put((torch.tensor([1]),), x[0]),
            x.index_put((torch.tensor([1, 1]),), x[:2], accumulate=True),
            torch.column_stack([x, x]),
            torch.meshgrid(x[0, 0], x[0, 1], indexing="ij")[0],
            torch.select_scatter(x, x[:, 0], 1, 1),
            torch.slice_scatter(x, x[:, :2], 1, 0, 2),
            torch.block_diag(x[0], x[1]),
            torch.cartesian_prod(x[0, 0], x[0, 1]),
            torch.scatter_reduce(x, 1, torch.tensor([[[0] * 10] * 6] * 4), x, "mean"),
            x.masked_scatter(x > 0, x),
            x.expand_as(x),
            x.squeeze((0,)),
            torch.where(x > 0, x, 0.0),
            torch.where(x > 0, 1.0, x),
            torch.broadcast_to(x, (2, 4, 6, 10)),
            x.sum_to_size(4, 1, 10),
            torch.einsum("abc->cab", x),
            x.split(2, 1)[1],
            x.hsplit(2)[0],
            torch.dstack([x, x]),
            x.view(24, 10).diag(),
            x.view(24, 10).trace(),
        ]

    learn(views, normal(4, 6, 10))
    with torch.inference_mode():
        views(normal(4, 6, 10))


def fills() -> None:
    x = normal(31, 37)
    for make in (torch.zeros, torch.ones, torch.empty):
        make(3, 4).fill_(2)
    for like in (torch.zeros_like, torch.ones_like, torch.empty_like):
        like(x).fill_(2)
    (
        torch.full((3,), 2.5),
        torch.full_like(x, 0.5),
        torch.eye(5),
        torch.eye(2, 3),
        torch.arange(7),
        torch.arange(0, 1, 0.1),
        torch.arange(2, 9),
    )
    (
        torch.linspace(-1, 1, 33),
        torch.logspace(0, 2, 33),
        torch.tensor([1.0, 2.0]),
        torch.tril_indices(4, 4),
        torch.scalar_tensor(2.0),
    )
    (
        x.new_zeros(3),
        x.new_ones(3),
        x.new_full((3,), 2.0),
        x.new_empty(3).zero_(),
        x.new_tensor([1.0]),
        x.new_empty_strided((3,), (1,)).zero_(),
    )
    (
        x.copy_(normal(37)),
        x.masked_fill_(x > 1, 0.0),
        x.masked_fill_(x > 1, torch.tensor(0.0)),
        x[3].zero_(),
        x[:, 3].fill_(1),
        x.resize_(5, 5).zero_(),
    )
    (
        x.fill_(torch.tensor(3.0)),
        x.index_fill_(0, torch.tensor([1]), 2.0),
        x.scatter_(0, torch.tensor([[0]]), 2.0),
    )
    y = normal(31, 37)
    y[0] = 1.0
    y[:, 1] = normal(31)
    y[torch.tensor([1, 2])] = 0.5
    y[y > 1] = 0.0
    (
        y.index_add_(0, torch.tensor([0, 0]), y[:2].clone()),
        y.scatter_add_(0, torch.tensor([[0]]), y.clone()),
        y.index_copy_(0, torch.tensor([1]), y[:1].clone()),
    )
    (
        y.set_(y.clone()),
        y.squeeze_(),
        y.unsqueeze_(0),
        y.transpose_(0, 1),
        y.squeeze_(),
        y.t_(),
        y.tril_(),
        y.fill_diagonal_(0.3),
    )
    (
        y.scatter_reduce_(0, torch.tensor([[0]]), y.clone(), "amax"),
        F.one_hot(classes(5, 9), 5).to(y.dtype),
    )
    (
        torch.bartlett_window(9),
        torch.hann_window(9),
        torch.hamming_window(9),
        torch.kaiser_window(9),
        torch.blackman_window(9),
    )
    (
        torch.triu_indices(3, 3),
        torch.vander(normal(5)),
        torch.cov(normal(5, 9)),
        torch.corrcoef(normal(5, 9)),
    )


case("views, copies and choices", shapes)
case("fills", fills)

# --- Random numbers ---


def draws() -> None:
    g = torch.Generator().manual_seed(5)
    for generator in (None, g):
        (
            torch.rand(1037, generator=generator),
            torch.randn(1037, generator=generator),
            torch.randn(7, generator=generator),
        )
        (
            torch.randint(0, 99, (1037,), generator=generator),
            torch.randint(99, (5,), generator=generator),
            torch.randperm(1037, generator=generator),
        )
        x = torch.empty(37, 31)
        (
            x.uniform_(-2, 3, generator=generator),
            x.normal_(1, 2, generator=generator),
            x.bernoulli_(0.3, generator=generator),
        )
        (
            x.exponential_(1.5, generator=generator),
            x.log_normal_(generator=generator),
            x.cauchy_(generator=generator),
            x.geometric_(0.3, generator=generator),
        )
        (
            x.random_(generator=generator),
            x.random_(9, generator=generator),
            x.random_(2, 9, generator=generator),
            x.bernoulli_(x.uniform_(generator=generator)),
        )
        (
            torch.bernoulli(uniform(37), generator=generator),
            torch.multinomial(uniform(5, 37), 7, generator=generator),
        )
        (
            torch.multinomial(uniform(5, 37), 70, replacement=True, generator=generator),
            torch.normal(uniform(37), uniform(37), generator=generator),
        )
        (
            torch.normal(0.0, uniform(37), generator=generator),
            torch.normal(uniform(37), 1.0, generator=generator),
            torch.poisson(9 * uniform(37), generator=generator),
        )
        (
            torch.normal(1.0, 2.0, (37,), generator=generator),
            torch.empty(37, dtype=torch.bool).bernoulli_(0.4, generator=generator),
        )
    (
        torch.rand_like(x),
        torch.randn_like(x),
        torch.randint_like(x, 9),
        torch.randint(9, (37,)),
        torch.randint(-3, 9, (37,)),
        torch.randn(37, 31),
        torch.empty(31, 37).t().bernoulli_(0.2),
        torch.empty(37, 31)[:, ::2].uniform_(),
    )
    torch.manual_seed(3)
    (
        torch.distributions.Beta(0.3, 0.4).sample((37,)),
        torch.distributions.Gamma(0.3, 0.4).sample((37,)),
    )
    (
        torch.distributions.Dirichlet(uniform(5)).sample((37,)),
        torch.distributions.Categorical(uniform(5)).sample((37,)),
    )


case("random numbers", draws)


def initializers() -> None:
    for name in words(
        """
        uniform_ normal_ trunc_normal_ ones_ zeros_ eye_ xavier_uniform_ xavier_normal_
        kaiming_uniform_ kaiming_normal_
        """
    ):
        getattr(nn.init, name)(torch.empty(37, 33))
    (
        nn.init.constant_(torch.empty(37), 0.3),
        nn.init.dirac_(torch.empty(4, 4, 3, 3)),
        nn.init.sparse_(torch.empty(37, 33), 0.1),
    )
    for module in (
        nn.Linear(9, 7),
        nn.Conv2d(3, 5, 3),
        nn.LSTM(5, 6),
        nn.Embedding(9, 5),
        nn.MultiheadAttention(8, 2),
        nn.BatchNorm2d(5),
    ):
        [parameter.detach().clone() for parameter in module.parameters()]


case("initial values", initializers)
for _name, _module in {
    "dropout": lambda: nn.Dropout(0.3),
    "dropout1d": lambda: nn.Dropout1d(0.3),
    "dropout2d": lambda: nn.Dropout2d(0.3),
    "alpha dropout": lambda: nn.AlphaDropout(0.3),
    "feature alpha dropout": lambda: nn.FeatureAlphaDropout(0.3),
    "dropout in place": lambda: nn.Sequential(nn.Linear(9, 9), nn.Dropout(0.3, inplace=True)),
}.items():
    layer(_name, _module, 9, 7, 5) if _name == "dropout1d" else layer(
        _name, _module, 5, 7, 6, 9, last=True
    )
case(
    "gumbel softmax",
    lambda: (
        learn(lambda x: F.gumbel_softmax(x, 0.7), normal(31, 9)),
        learn(lambda x: F.gumbel_softmax(x, 0.7, hard=True), normal(31, 9)),
    ),
)

# --- Matrix products ---


def products() -> None:
    for m, k, n in ((65, 784, 37), (33, 17, 10), (1, 7, 5), (7, 1, 5), (5, 0, 3), (0, 5, 3)):
        learn(torch.mm, normal(m, k), normal(k, n))
        learn(torch.addmm, normal(n), normal(m, k), normal(k, n))
    learn(
        lambda c, a, b: torch.addmm(c, a, b, beta=0.3, alpha=0.7),
        normal(9, 5),
        normal(9, 17),
        normal(17, 5),
    )
    learn(torch.bmm, normal(6, 33, 17), normal(6, 17, 25))
    learn(
        lambda c, a, b: torch.baddbmm(c, a, b, beta=0.3, alpha=0.7),
        normal(6, 9, 5),
        normal(6, 9, 17),
        normal(6, 17, 5),
    )
    learn(lambda c, a, b: torch.addbmm(c, a, b), normal(9, 5), normal(6, 9, 17), normal(6, 17, 5))
    learn(torch.mv, normal(67, 33), normal(33))
    learn(
        lambda c, a, b: torch.addmv(c, a, b, beta=0.3, alpha=0.7),
        normal(67),
        normal(67, 33),
        normal(33),
    )
    learn(torch.dot, normal(1037), normal(1037)), learn(torch.vdot, normal(1037), normal(1037))
    (
        learn(torch.outer, normal(67), normal(33)),
        learn(torch.addr, normal(67, 33), normal(67), normal(33)),
        learn(torch.inner, normal(5, 33), normal(7, 33)),
    )
    (
        learn(torch.matmul, normal(3, 9, 17), normal(17, 5)),
        learn(torch.matmul, normal(3, 1, 9, 17), normal(4, 17, 5)),
        learn(torch.matmul, normal(17), normal(17, 5)),
    )
    learn(
        lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b), normal(2, 3, 9, 17), normal(2, 3, 7, 17)
    )
    (
        learn(lambda a, b: torch.einsum("bi,bj->ij", a, b), normal(9, 17), normal(9, 5)),
        learn(torch.kron, normal(3, 4), normal(2, 5)),
    )
    (
        learn(lambda a, b: torch.tensordot(a, b, 2), normal(5, 6, 7), normal(6, 7, 8)),
        learn(lambda a: torch.linalg.multi_dot([a, a.t(), a]), normal(9, 5)),
    )
    (
        learn(lambda a, b, c: F.bilinear(a, b, c), normal(9, 5), normal(9, 7), normal(3, 5, 7)),
        learn(torch.chain_matmul, normal(5, 6), normal(6, 7)),
    )
    a, b = normal(9, 17), normal(17, 5)
    out = torch.empty(9, 5)
    (
        torch.mm(a, b, out=out),
        torch.addmm(normal(5), a, b, out=out),
        out.addmm_(a, b),
        torch.mv(a, b[:, 0], out=torch.empty(9)),
        normal(9).addmv_(a, b[:, 0]),
    )
    (
        torch.addmv(normal(9), a, b[:, 0], out=torch.empty(9)),
        torch.dot(b[:, 0], b[:, 1], out=torch.empty(())),
        torch.matrix_power(normal(5, 5), 3),
    )
    (
        torch.bmm(a[None], b[None], out=torch.empty(1, 9, 5)),
        torch.baddbmm(out[None], a[None], b[None], out=torch.empty(1, 9, 5)),
        out[None].baddbmm_(a[None], b[None]),
    )
    (
        torch.sqrt(uniform(9), out=torch.empty(9)),
        torch.pow(uniform(9), 0.5, out=torch.empty(9)),
        uniform(9).pow_(0.5),
        torch.pow(0.5, normal(9)),
    )
    (
        torch.add(a, a, out=torch.empty(9, 17)),
        torch.mul(a, a, out=torch.empty(9, 17)),
        torch.matmul(a, b, out=out),
        torch.sub(a, a, out=torch.empty(9, 17)),
    )
    (
        torch.div(a, a, out=torch.empty(9, 17)),
        torch.cat([a, a], out=torch.empty(18, 17)),
        torch.stack([a, a], out=torch.empty(2, 9, 17)),
        torch.sum(a, 0, out=torch.empty(17)),
    )
    (
        torch.exp(a, out=torch.empty(9, 17)),
        torch.clamp(a, 0, 1, out=torch.empty(9, 17)),
        torch.mean(a, 0, out=torch.empty(17)),
        torch.index_select(a, 0, torch.tensor([1]), out=torch.empty(1, 17)),
    )


case("matrix products", products)

# --- Convolutions ---

for _name, _make, _shape in (
    ("conv1d", lambda: nn.Conv1d(5, 7, 3, padding=1), (9, 5, 33)),
    ("conv1d of one", lambda: nn.Conv1d(2, 3, 3), (1, 2, 9)),
    ("conv3d", lambda: nn.Conv3d(3, 5, 3, padding=1), (3, 3, 7, 6, 9)),
    ("conv3d of one", lambda: nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3)),
    ("conv transpose 1d", lambda: nn.ConvTranspose1d(5, 7, 3, 2), (3, 5, 17)),
    ("conv transpose 3d", lambda: nn.ConvTranspose3d(3, 5, 3, 2), (2, 3, 4, 5, 4)),
):
    layer(_name, _make, *_shape)
for _name, _make, _shape in (
    ("conv2d 5x5/2", lambda: nn.Conv2d(1, 16, 5, 2), (5, 1, 28, 28)),
    ("conv2d 3x3", lambda: nn.Conv2d(16, 33, 3, padding=1), (5, 16, 9, 7)),
    ("conv2d 3x3/2 without biases", lambda: nn.Conv2d(8, 24, 3, 2, 1, bias=False), (9, 8, 13, 13)),
    ("conv2d 3x3 of one image", lambda: nn.Conv2d(3, 8, 3, padding=1), (1, 3, 9, 9)),
    ("conv2d 1x1 of one small image", lambda: nn.Conv2d(2, 3, 1), (1, 2, 3, 3)),
    ("conv2d 2x2 of one small image", lambda: nn.Conv2d(1, 2, 2), (1, 1, 4, 4)),
    ("conv2d of one large image", lambda: nn.Conv2d(3, 8, 7, 2, 3), (1, 3, 40, 40)),
    ("conv2d 1x1", lambda: nn.Conv2d(32, 40, 1), (7, 32, 5, 7)),
    ("conv2d 1x1 of many images", lambda: nn.Conv2d(32, 40, 1), (17, 32, 5, 7)),
    ("conv2d depthwise", lambda: nn.Conv2d(24, 24, 3, padding=1, groups=24), (9, 24, 9, 9)),
    ("conv2d depthwise 7x7", lambda: nn.Conv2d(16, 16, 7, padding=3, groups=16), (5, 16, 9, 9)),
    ("conv2d groups", lambda: nn.Conv2d(16, 32, 3, groups=4), (5, 16, 9, 9)),
    ("conv2d dilated", lambda: nn.Conv2d(8, 16, 3, dilation=2), (5, 8, 11, 11)),
    ("conv2d dilated of one small image", lambda: nn.Conv2d(2, 3, 2, dilation=2), (1, 2, 5, 5)),
    (
        "conv2d padded otherwise",
        lambda: nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect"),
        (5, 3, 9, 9),
    ),
    ("conv transpose 2d", lambda: nn.ConvTranspose2d(8, 12, 3, 2, 1, 1), (5, 8, 7, 9)),
    ("conv transpose 2d of one small image", lambda: nn.ConvTranspose2d(2, 3, 2), (1, 2, 3, 3)),
    ("conv transpose 2d groups", lambda: nn.ConvTranspose2d(8, 12, 4, 2, groups=4), (3, 8, 5, 5)),
):
    layer(_name, _make, *_shape, last=True)
case(
    "unfold fold",
    lambda: (
        learn(lambda x: F.unfold(x, 3, padding=1), normal(3, 4, 7, 9)),
        learn(lambda x: F.fold(x, (6, 8), 3, padding=1), normal(3, 18, 48)),
    ),
)

# --- Norms, pools, sizes ---

for _name, _make, _shape in (
    ("batch norm 1d", lambda: nn.BatchNorm1d(37), (33, 37)),
    ("batch norm 1d of sequences", lambda: nn.BatchNorm1d(7), (5, 7, 33)),
    ("batch norm 3d", lambda: nn.BatchNorm3d(5), (3, 5, 4, 6, 5)),
    ("layer norm", lambda: nn.LayerNorm(133), (33, 133)),
    ("layer norm of images", lambda: nn.LayerNorm((5, 7, 9), bias=False), (4, 5, 7, 9)),
    ("RMS norm", lambda: nn.RMSNorm(133), (33, 133)),
    (
        "adaptive pools 1d",
        lambda: nn.Sequential(nn.AdaptiveMaxPool1d(7), nn.AdaptiveAvgPool1d(3)),
        (3, 4, 17),
    ),
    (
        "pools 1d",
        lambda: nn.Sequential(nn.MaxPool1d(3, 2), nn.AvgPool1d(2), nn.LPPool1d(2, 2)),
        (3, 4, 33),
    ),
    (
        "pools 3d",
        lambda: nn.Sequential(nn.MaxPool3d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(1)),
        (2, 3, 8, 9, 8),
    ),
    ("adaptive max pool 3d", lambda: nn.AdaptiveMaxPool3d(2), (2, 3, 5, 6, 7)),
    (
        "softmax layers",
        lambda: nn.Sequential(nn.Softmax2d(), nn.Flatten(), nn.LogSoftmax(1)),
        (3, 5, 7, 9),
    ),
):
    layer(_name, _make, *_shape)
for _name, _make, _shape in (
    ("batch norm 2d", lambda: nn.BatchNorm2d(20), (9, 20, 7, 7)),
    (
        "batch norm 2d without weights",
        lambda: nn.BatchNorm2d(20, affine=False, momentum=None),
        (9, 20, 3, 5),
    ),
    (
        "batch norm 2d without statistics",
        lambda: nn.BatchNorm2d(20, track_running_stats=False),
        (9, 20, 1, 1),
    ),
    ("group norm", lambda: nn.GroupNorm(4, 20), (9, 20, 7, 7)),
    ("instance norm", lambda: nn.InstanceNorm2d(20, affine=True), (5, 20, 7, 7)),
    (
        "instance norm with statistics",
        lambda: nn.InstanceNorm2d(6, track_running_stats=True),
        (5, 6, 7, 7),
    ),
    ("local response norm", lambda: nn.LocalResponseNorm(3), (3, 9, 7, 7)),
    ("max pool", lambda: nn.MaxPool2d(2), (5, 20, 9, 8)),
    ("max pool 3x3/2", lambda: nn.MaxPool2d(3, 2, 1, dilation=1), (5, 3, 9, 8)),
    ("average pool", lambda: nn.AvgPool2d(3, 2, 1), (5, 20, 9, 8)),
    ("global average pool", lambda: nn.AdaptiveAvgPool2d(1), (5, 20, 9, 8)),
    ("adaptive average pool", lambda: nn.AdaptiveAvgPool2d((3, 2)), (5, 20, 9, 8)),
    ("adaptive max pool", lambda: nn.AdaptiveMaxPool2d((3, 2)), (5, 20, 9, 8)),
    ("power pool", lambda: nn.LPPool2d(2, 2), (5, 4, 8, 8)),
    ("fractional pool", lambda: nn.FractionalMaxPool2d(2, output_ratio=0.6), (2, 3, 8, 8)),
    (
        "pixel shuffle",
        lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(4)),
        (3, 8, 5, 5),
    ),
    ("reflected padding", lambda: nn.ReflectionPad2d((1, 2, 3, 1)), (3, 4, 7, 6)),
    ("replicated padding", lambda: nn.ReplicationPad2d((1, 2, 3, 1)), (3, 4, 7, 6)),
    ("circular padding", lambda: nn.CircularPad2d((1, 2, 3, 1)), (3, 4, 7, 6)),
    ("constant padding", lambda: nn.ConstantPad2d((1, -1, 3, 1), 0.3), (3, 4, 7, 6)),
    ("upsample nearest", lambda: nn.Upsample(scale_factor=2), (3, 4, 7, 6)),
    (
        "upsample nearest exact",
        lambda: nn.Upsample(size=(5, 9), mode="nearest-exact"),
        (3, 4, 7, 6),
    ),
    ("upsample bilinear", lambda: nn.Upsample(scale_factor=1.7, mode="bilinear"), (3, 4, 7, 6)),
    (
        "upsample bilinear aligned",
        lambda: nn.Upsample(size=(11, 13), mode="bilinear", align_corners=True),
        (3, 4, 7, 6),
    ),
    ("upsample bicubic", lambda: nn.Upsample(scale_factor=1.7, mode="bicubic"), (3, 4, 7, 6)),
):
    layer(_name, _make, *_shape, last=True)


def resize(mode: str) -> None:
    for size in ((5, 4), (11, 13)):
        for x in (normal(2, 3, 9, 8), normal(2, 3, 9, 8).to(memory_format=torch.channels_last)):
            learn(lambda x, s=size: F.interpolate(x, size=s, mode=mode, antialias=True), x)
            learn(lambda x, s=size: F.interpolate(x, size=s, mode="area"), x)


for _name in ("bilinear", "bicubic"):
    case(f"resize {_name} antialias", lambda mode=_name: resize(mode))
case(
    "resize 1d and 3d",
    lambda: [
        learn(f, x)
        for f, x in (
            (lambda x: F.interpolate(x, size=13), normal(2, 3, 9)),
            (lambda x: F.interpolate(x, size=13, mode="linear"), normal(2, 3, 9)),
            (lambda x: F.interpolate(x, size=13, mode="nearest-exact"), normal(2, 3, 9)),
            (lambda x: F.interpolate(x, size=(5, 6, 7)), normal(2, 3, 4, 3, 5)),
            (lambda x: F.interpolate(x, size=(5, 6, 7), mode="trilinear"), normal(2, 3, 4, 3, 5)),
            (
                lambda x: F.interpolate(x, size=(5, 6, 7), mode="nearest-exact"),
                normal(2, 3, 4, 3, 5),
            ),
        )
    ],
)
case(
    "paddings 1d and 3d",
    lambda: [
        learn(f, x)
        for f, x in (
            (lambda x: F.pad(x, (2, 1), "reflect"), normal(2, 3, 9)),
            (lambda x: F.pad(x, (2, 1), "replicate"), normal(2, 3, 9)),
            (lambda x: F.pad(x, (2, 1), "circular"), normal(2, 3, 9)),
            (lambda x: F.pad(x, (2, 1)), normal(2, 3, 9)),
            (lambda x: F.pad(x, (2, 1, 1, 1, 0, 1), "reflect"), normal(2, 3, 4, 3, 5)),
            (lambda x: F.pad(x, (2, 1, 1, 1, 0, 1), "replicate"), normal(2, 3, 4, 3, 5)),
        )
    ],
)

# --- Warps ---


def grid_sample(mode: str, *sizes: int) -> None:
    """With some points beyond the edge, and some on pixels."""
    dimensions = len(sizes)
    for padding in ("zeros", "border", "reflection"):
        for aligned in (True, False):
            grid = 0.8 * normal(3, *(size - 2 for size in sizes), dimensions)
            grid[0] = grid[0].round()
            learn(
                lambda x, g, p=padding, a=aligned: F.grid_sample(
                    x, g, mode=mode, padding_mode=p, align_corners=a
                ),
                normal(3, 2, *sizes),
                grid,
            )


for _name in ("bilinear", "nearest", "bicubic"):
    case(f"grid sample {_name}", lambda mode=_name: grid_sample(mode, 9, 11))
for _name in ("bilinear", "nearest"):
    case(f"grid sample {_name} 3d", lambda mode=_name: grid_sample(mode, 5, 4, 7))


def spatial_transformer(*sizes: int) -> None:
    dimensions = len(sizes)
    for aligned in (True, False):
        learn(
            lambda x, theta, a=aligned: F.grid_sample(
                x, F.affine_grid(theta, list(x.shape), align_corners=a), align_corners=a
            ),
            normal(3, 2, *sizes),
            normal(3, dimensions, dimensions + 1),
        )


case("spatial transformer", lambda: spatial_transformer(9, 11))
case("spatial transformer 3d", lambda: spatial_transformer(5, 4, 7))

# --- Complex numbers, Fourier transforms ---


def complex_numbers() -> None:
    """Of real numbers, too: a row of the list has one case for all types."""
    for draw in (normal, complex_normal):
        for binary_function in (torch.add, torch.sub, torch.mul, torch.div):
            learn(binary_function, draw(31, 37), draw(31, 37))
            learn(binary_function, draw(31, 37), draw(37))
            learn(binary_function, draw(37, 31).t(), normal(31, 37))
        for name in words(
            """
            abs angle sgn square reciprocal neg exp log tanh sigmoid sum mean conj real clone
            """
        ):
            learn(getattr(torch, name), draw(31, 37))
        learn(lambda x: [x.sum(0), x.sum(1), x.mean(1), x.cumsum(1), x.pow(3)], draw(31, 37))
        learn(lambda x: [2 * x + 0.5, x / 3, 1 / x, x - 1, x * 1j, -x], draw(31, 37))
        learn(lambda x: torch.where(x == 0, x, x * x.abs()), draw(31, 37))
        draw(31, 37).add_(0.3).sub_(0.1).mul_(draw(31, 37)).div_(draw(37)).div_(0.7)
        torch.ops.aten.mul_.Scalar(draw(31, 37), 0.5)  # the derivative of an inverse transform
    learn(torch.complex, normal(31, 37), normal(31, 37))
    learn(torch.polar, uniform(31, 37), normal(31, 37))
    learn(torch.view_as_complex, normal(31, 37, 2))
    learn(torch.view_as_real, complex_normal(31, 37))
    learn(lambda x: [x.real * x.imag, x.conj() * x, x.mH @ x], complex_normal(31, 37))


def complex_products() -> None:
    for draw in (normal, complex_normal):
        learn(torch.mm, draw(33, 65), draw(65, 37))
        learn(torch.mm, draw(65, 33).mH, draw(37, 65).mT)
        learn(torch.addmm, draw(37), draw(33, 65), draw(65, 37))
        learn(torch.bmm, draw(6, 33, 17), draw(6, 17, 25))
        learn(torch.baddbmm, draw(6, 33, 25), draw(6, 33, 17), draw(6, 17, 25))
        learn(torch.mv, draw(67, 33), draw(33))
        learn(torch.addmv, draw(67), draw(67, 33), draw(33))
        learn(torch.dot, draw(1037), draw(1037)), learn(torch.vdot, draw(1037), draw(1037))
        learn(
            lambda x, w: torch.einsum("bixy,ioxy->boxy", x, w), draw(5, 3, 7, 4), draw(3, 6, 7, 4)
        )


def fourier(length: int) -> None:
    def transforms(x: Tensor) -> list[Tensor]:  # [..., length, 12]
        f = torch.fft
        shape = x.shape[-2:]
        return [
            f.rfft2(x),
            f.irfft2(f.rfft2(x, norm="ortho"), s=shape, norm="ortho"),
            f.ifft2(f.fft2(x, norm="forward"), norm="backward").real,
            f.irfft(f.rfft(x, dim=-2), n=length, dim=-2),
            f.ifft(f.fft(x, dim=-2), dim=-2),
            f.irfftn(f.rfftn(x), s=x.shape),
            f.ifftn(f.fftn(x)),
            f.hfft(f.ihfft(x)),
            f.fftshift(f.fft2(x)).abs(),
            f.rfft(x, n=length + 3, dim=-2),
        ]

    learn(transforms, normal(3, 2, length, 12))
    learn(
        lambda x: [torch.fft.fft(x), torch.fft.ifft2(x), torch.fft.irfft2(x)],
        complex_normal(3, length, 9),
    )
    torch.fft.fftfreq(length), torch.fft.rfftfreq(length)


case("complex numbers", complex_numbers)
case("complex products", complex_products)
for _length in (28, 1, 2, 15, 17, 32, 37, 100, 224):
    case(f"Fourier transforms of {_length}", lambda length=_length: fourier(length))
case(
    "Fourier transform of sound",
    lambda: learn(
        lambda x: torch.view_as_real(
            torch.stft(x, 64, window=torch.hann_window(64), return_complex=True)
        ),
        normal(3, 400),
    ),
)

# --- Losses ---


def losses_of_classes() -> None:
    x, labels = normal(67, 10), classes(10, 67)
    learn(F.cross_entropy, x, labels)
    learn(lambda x: F.cross_entropy(x, labels, label_smoothing=0.1), x)
    learn(lambda x: F.cross_entropy(x, labels, weight=uniform(10), label_smoothing=0.1), x)
    learn(lambda x: F.cross_entropy(x, labels, ignore_index=3, reduction="sum"), x)
    learn(lambda x: F.cross_entropy(x, labels, reduction="none", label_smoothing=0.1), x)
    learn(lambda x, p: F.cross_entropy(x, p.softmax(1)), x, normal(67, 10))
    learn(lambda x, p: F.cross_entropy(x, p.softmax(1), label_smoothing=0.1), x, normal(67, 10))
    learn(lambda x: F.cross_entropy(x, classes(5, 3, 7, 9)), normal(3, 5, 7, 9))
    learn(
        lambda x: F.cross_entropy(x, classes(5, 3, 7, 9), label_smoothing=0.1), normal(3, 5, 7, 9)
    )
    (
        learn(lambda x: F.nll_loss(x.log_softmax(1), labels), x),
        learn(lambda x: F.multi_margin_loss(x, labels), x),
    )
    (
        learn(lambda x: F.multilabel_margin_loss(x, classes(10, 67, 10)), x),
        learn(lambda x: F.multilabel_soft_margin_loss(x, uniform(67, 10)), x),
    )


def losses_of_values() -> None:
    x, y = normal(33, 37), normal(33, 37)
    for reduction in ("mean", "sum", "none"):
        for loss in (
            F.mse_loss,
            F.l1_loss,
            F.smooth_l1_loss,
            F.huber_loss,
            F.soft_margin_loss,
            F.poisson_nll_loss,
        ):
            learn(
                lambda x, y, f=loss, r=reduction: f(
                    x,
                    y.detach() if f in (F.soft_margin_loss, F.poisson_nll_loss) else y,
                    reduction=r,
                ),
                x,
                y,
            )
        learn(
            lambda x, r=reduction: F.binary_cross_entropy_with_logits(
                x, uniform(33, 37), reduction=r, pos_weight=uniform(37)
            ),
            x,
        )
        learn(
            lambda x, r=reduction: F.binary_cross_entropy_with_logits(
                x, uniform(33, 37), reduction=r, weight=uniform(37)
            ),
            x,
        )
        learn(
            lambda x, r=reduction: F.binary_cross_entropy(x, y.sigmoid(), reduction=r),
            uniform(33, 37),
        )
        learn(lambda x, r=reduction: F.kl_div(x.log_softmax(1), y.softmax(1), reduction=r), x)
        learn(
            lambda x, r=reduction: F.kl_div(
                x.log_softmax(1), y.log_softmax(1), reduction=r, log_target=True
            ),
            x,
        )
    sign = 2 * classes(2, 33) - 1
    (
        learn(lambda x: F.hinge_embedding_loss(x, y.sign()), x),
        learn(lambda x, y: F.margin_ranking_loss(x[:, 0], y[:, 0], sign), x, y),
    )
    (
        learn(lambda x, y: F.triplet_margin_loss(x, y, x.flip(0)), x, y),
        learn(lambda x, y: F.cosine_embedding_loss(x, y, sign), x, y),
    )
    learn(lambda x: F.gaussian_nll_loss(x, y, uniform(33, 37)), x)


case("losses of classes", losses_of_classes)
case("losses of values", losses_of_values)
case(
    "CTC loss",
    lambda: learn(
        lambda x: F.ctc_loss(
            x.log_softmax(2), 1 + classes(5, 3, 4), torch.full((3,), 11), torch.tensor([4, 3, 2])
        ),
        normal(11, 3, 6),
    ),
)

# --- Sequences and attention ---

layer("embedding", lambda: nn.Sequential(Indices(), nn.Embedding(37, 17, padding_idx=0)), 9, 11)
layer(
    "embedding scaled",
    lambda: nn.Sequential(Indices(), nn.Embedding(37, 17, scale_grad_by_freq=True)),
    9,
    11,
)
layer("embedding bag", lambda: nn.Sequential(Indices(), nn.EmbeddingBag(37, 17)), 9, 11)
layer(
    "embedding bag sum",
    lambda: nn.Sequential(Indices(), nn.EmbeddingBag(37, 17, mode="sum")),
    9,
    11,
)
layer(
    "embedding bag max",
    lambda: nn.Sequential(Indices(), nn.EmbeddingBag(37, 17, mode="max")),
    9,
    11,
)


class Indices(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 100).to(torch.int64) % 37


class First(nn.Module):
    """The first output of a layer that returns several."""

    def __init__(self, inner: nn.Module, **options: Any) -> None:
        super().__init__()
        self.inner, self.options = inner, options

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.inner(x, **self.options)[0]
        return first


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(24, 3, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        with_weights, weights = self.inner(x, x, x, attn_mask=mask)
        return torch.cat(
            [self.inner(x, x, x, need_weights=False)[0], with_weights + weights.sum()], 1
        )


layer(
    "LSTM bidirectional", lambda: First(nn.LSTM(17, 20, bidirectional=True, proj_size=5)), 5, 7, 17
)
for _name, _sizes in {"": (17, 20, 7), " of one image": (5, 6, 1), ", wide": (96, 160, 65)}.items():
    layer(
        f"LSTM of two layers with dropout{_name}",
        lambda sizes=_sizes: First(
            nn.LSTM(*sizes[:2], 2, dropout=0.3, bidirectional=True, batch_first=True)
        ),
        _sizes[2],
        5,
        _sizes[0],
    )
layer(
    "LSTM without biases",
    lambda: First(nn.LSTM(17, 20, bias=False)),
    5,
    7,
    17,
)
case(
    "packed sequences",
    lambda: learn(
        lambda x: nn.utils.rnn.pad_packed_sequence(
            fill(nn.LSTM(5, 6, batch_first=True))(
                nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 4, 2]), batch_first=True)
            )[0]
        )[0],
        normal(3, 7, 5),
    ),
)
case(
    "recurrent cells",
    lambda: (
        learn(lambda x: fill(nn.LSTMCell(5, 6))(x)[0], normal(9, 5)),
        learn(lambda x: fill(nn.GRUCell(5, 6))(x), normal(9, 5)),
        learn(lambda x: fill(nn.RNNCell(5, 6))(x), normal(9, 5)),
    ),
)
layer("multi-head attention", Attention, 3, 11, 24)
layer("multi-head attention with dropout", lambda: Attention(dropout=0.2), 3, 11, 24)


def attention() -> None:
    q, k, v = (normal(2, 3, length, 16) for length in (37, 41, 41))
    mask = normal(37, 41)
    learn(F.scaled_dot_product_attention, q, k, v)
    learn(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)
    learn(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask > 0), q, k, v)
    learn(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3), q, k, v
    )
    learn(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.2), q, k, v)
    learn(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), q, k, v, mask)
    learn(F.scaled_dot_product_attention, *(normal(1, 2, 200, 32) for _ in range(3)))
    learn(F.scaled_dot_product_attention, *(normal(5, 9, 7) for _ in range(3)))
    learn(
        lambda q, k, v: F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        ),
        *(normal(2, 37, 3, 16) for _ in range(3)),
    )
    with torch.no_grad():
        F.scaled_dot_product_attention(q, k, v)


case("scaled dot product attention", attention)

# --- Optimizers ---


def optimize(name: str, options: dict[str, Any]) -> None:
    parameters = [nn.Parameter(normal(*shape)) for shape in ((37, 19), (19,), (3, 7, 5))]
    optimizer = without_compiler(getattr(optim, name))(parameters, **({"lr": 0.01} | options))
    for _ in range(3):
        optimizer.zero_grad()
        sum(((p - 0.1) ** 2).sum() for p in parameters).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    optimizer.state_dict()


# Without options they only use operations of other cases.
OPTIMIZERS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {},
        {"momentum": 0.9, "nesterov": True, "foreach": True},
        {"momentum": 0.9, "dampening": 0.1, "fused": True, "weight_decay": 0.01},
    ],
    "Adam": [
        {"weight_decay": 0.01, "amsgrad": True},
        {"fused": True},
        {"foreach": True},
        {"foreach": True, "amsgrad": True, "weight_decay": 0.01},
    ],
    "AdamW": [{"fused": True}],
    "Adagrad": [{"fused": True}, {"foreach": True}],
    "RMSprop": [{"foreach": True, "momentum": 0.9, "centered": True}],
    **{
        name: [{"foreach": True}]
        for name in ("Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "Rprop", "Adafactor")
    },
}
for _name, _variants in OPTIMIZERS.items():
    for _options in _variants:
        _told = ", ".join(f"{key} {value}" for key, value in _options.items())
        case(f"{_name} {_told}".strip(), lambda n=_name, o=_options: optimize(n, o))


def averaging() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)))
    ema = optim.swa_utils.AveragedModel(
        model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    swa = optim.swa_utils.AveragedModel(model)
    for _ in range(3):
        model(normal(9, 5)).sum().backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        (
            nn.utils.clip_grad_norm_(model.parameters(), 0.1, norm_type=1.0),
            nn.utils.clip_grad_norm_(model.parameters(), 0.1, norm_type=float("inf")),
        )
        ema.update_parameters(model), swa.update_parameters(model)
    nn.utils.parameters_to_vector(model.parameters())


case("averages of weights, clipped gradients", averaging)


def foreach() -> None:
    a, b = [uniform(33), uniform(5, 7)], [uniform(33), uniform(5, 7)]
    for name in ("add", "sub", "mul", "div", "maximum", "minimum", "pow"):
        (
            getattr(torch, f"_foreach_{name}")(a, b),
            getattr(torch, f"_foreach_{name}_")([x.clone() for x in a], b),
        )
        (
            getattr(torch, f"_foreach_{name}")(a, 0.3),
            getattr(torch, f"_foreach_{name}_")([x.clone() for x in a], 0.3),
        )
        (
            getattr(torch, f"_foreach_{name}")(a, [0.3, 0.4]),
            getattr(torch, f"_foreach_{name}_")([x.clone() for x in a], [0.3, 0.4]),
        )
    for name in words("sqrt rsqrt exp log neg abs reciprocal sign sigmoid tanh round"):
        (
            getattr(torch, f"_foreach_{name}")(a),
            getattr(torch, f"_foreach_{name}_")([x.clone() for x in a]),
        )
    (
        torch._foreach_norm(a),
        torch._foreach_lerp(a, b, 0.3),
        torch._foreach_lerp_([x.clone() for x in a], b, 0.3),
        torch._foreach_lerp(a, b, b),
        torch._foreach_lerp_([x.clone() for x in a], b, b),
    )
    (
        torch._foreach_addcmul(a, a, b, 0.3),
        torch._foreach_addcdiv(a, a, b, 0.3),
        torch._foreach_addcmul_([x.clone() for x in a], a, b, 0.3),
    )
    (
        torch._foreach_addcdiv_([x.clone() for x in a], a, b, 0.3),
        torch._foreach_zero_([x.clone() for x in a]),
        torch._foreach_copy_([x.clone() for x in a], b),
        torch._foreach_add_([x.clone() for x in a], b, alpha=0.4),
    )
    (
        torch._foreach_mul_([x.clone() for x in a], torch.tensor(0.4)),
        torch._foreach_div_([x.clone() for x in a], torch.tensor(0.4)),
        torch._foreach_clamp_min_([x.clone() for x in a], 0.4),
        torch._foreach_clamp_max_([x.clone() for x in a], 0.4),
    )


case("lists of tensors", foreach)

# --- A whole network ---


class Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
        self.shortcut = nn.Sequential(
            nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.first(x)).relu_()
        y = self.norms[1](self.second(y))
        y += self.shortcut(x)
        added: Tensor = y.relu_()
        return added


def resnet() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Residual(16, 24, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    fill(network).to(memory_format=torch.channels_last)
    x = normal(3, 3, 32, 32).to(memory_format=torch.channels_last)
    F.cross_entropy(network(x), classes(5, 3), label_smoothing=0.1).backward()
    network.eval()
    with torch.inference_mode():
        network(x)


case("resnet, channels_last", resnet)


def checkpointed() -> None:
    from torch.utils.checkpoint import checkpoint

    bare = inspect.unwrap(checkpoint)  # the wrapper imports the compiler
    module = fill(nn.Sequential(nn.Linear(17, 9), nn.Dropout(0.3), nn.GELU()))
    learn(lambda x: bare(module, x, use_reentrant=False), normal(5, 17))


def parametrized() -> None:
    from torch.nn.utils import parametrizations

    both_modes(lambda: parametrizations.weight_norm(nn.Linear(17, 9)), 5, 17)
    both_modes(lambda: parametrizations.spectral_norm(nn.Linear(17, 9)), 5, 17)
    learn(lambda x, w: F.linear(x, F.normalize(w)), normal(5, 17), normal(9, 17))


case("checkpointed", checkpointed)
case("parametrized weights", parametrized)


def augmentation() -> None:
    """In NumPy and in torch's integers; the sum records what came out."""
    amounts = dict.fromkeys(AUGMENTATION_AMOUNTS, 0.2) | {"cutout": 3, "crop_padding": 2}
    settings = AugmentationParams.model_validate(
        amounts | {"images_per_draw": 2, "min_crop_scale": 0.3, "custom": "none"}
    )
    images = _rng.integers(0, 256, (5, 3, 40, 37), np.uint8)
    torch.from_numpy(augment(images, settings, _rng, None, (0.5, 0.5, 0.5))) + 0


case("augmentation of images in colour", augmentation, (FLOAT,))

# --- The list ---

COPIES = words(
    """
    _local_scalar_dense _reshape_copy _shape_as_tensor _to_copy _unsafe_index _unsafe_view cat
    clone constant_pad_nd copy_ detach_ diag_embed empty empty_like empty_strided equal eye
    fill_ flip full full_like gather index index_copy index_copy_ index_fill index_fill_
    index_select isfinite isinf isnan lift_fresh lift_fresh_copy masked_fill masked_fill_
    masked_scatter masked_select new_empty new_empty_strided new_full new_ones new_zeros nonzero
    one_hot ones ones_like pixel_shuffle pixel_unshuffle repeat resize_ roll scalar_tensor
    scatter select_backward select_scatter set_ slice_backward slice_scatter squeeze_ stack t_
    take transpose_ tril tril_ tril_indices triu triu_ triu_indices unsqueeze_ where zero_ zeros
    zeros_like channel_shuffle _foreach_copy_ _foreach_zero_ _unsafe_masked_index
    reflection_pad2d replication_pad2d reflection_pad1d replication_pad1d reflection_pad3d
    replication_pad3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d randperm
    randint arange block_diag is_same_size repeat_interleave rot90 masked_scatter_ scatter_
    _assert_async _foreach_neg _foreach_neg_ neg neg_ sign sign_ signbit view_copy
    alias_copy as_strided_scatter diagonal_scatter diagonal_backward bitwise_and bitwise_or
    bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift logical_not logical_and
    logical_or logical_xor bincount unique_dim _unique2 isin searchsorted bucketize im2col
    """
)
OF_NUMPY = words("addbmm addmm addmv baddbmm bmm dot mm mv sqrt vdot _foreach_sqrt")
OF_MKL = [
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    *("_fft_c2c", "_fft_c2r", "_fft_r2c"),
]
OF_ONEDNN = words("convolution convolution_backward mkldnn_rnn_layer mkldnn_rnn_layer_backward")


def computed_by(operation: str, types: set[str]) -> str:
    """Return the library that computes an operation such as `aten.add.Tensor`."""
    namespace, name, overload = operation.split(".")
    func = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    if func.is_view or not types or name in COPIES:
        return NOTHING
    if name.removesuffix("_") in OF_NUMPY:
        return "NumPy"
    if name in OF_ONEDNN:
        return "oneDNN"
    return "MKL compatible" if name in OF_MKL else "torch"


def to_list(lines: list[dict[str, Any]]) -> str:
    """Return the operations that the cases cover, as CSV, each with the case of the most dtypes."""
    evidence: dict[str, tuple[str, set[str]]] = {}
    by_case: dict[str, dict[str, set[str]]] = {}
    for line in lines:
        for operation, (types, _) in line["operations"].items():
            by_case.setdefault(line["case"], {}).setdefault(operation, set()).update(types)
    for name, operations in by_case.items():
        for operation, types in operations.items():
            known = types & {*LISTED_TYPES}
            if operation not in evidence or known > evidence[operation][1]:
                evidence[operation] = (name, known)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["operation", "computed_by", "types", "evidence"])
    for operation, (name, types) in sorted(evidence.items()):
        by = computed_by(operation, types)
        writer.writerow([operation, by, " ".join(sorted(types)) if by != NOTHING else "", name])
    return text.getvalue()


if __name__ == "__main__":
    lines = []
    for line in run_all():
        lines.append(line)
        if sys.argv[1:] != ["--write"]:
            print(json.dumps(line), flush=True)
    if sys.argv[1:] == ["--write"]:
        OPERATIONS.write_text(to_list(lines), encoding="utf-8", newline="")
