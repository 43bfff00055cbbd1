"""What common networks compute, to compare processors: the evidence behind `operations.csv`.

    python tests/numerics/cases.py            # prints a line of JSON for each case
    python tests/numerics/cases.py --write [ARM]    # rewrites operations.csv from the cases

ARM is a file of the lines that an ARM processor prints; without it, what is known of ARM is kept.

A case is a layer, an optimizer or the like, written here, or what PyTorch tests one of its own
operations with (op_samples.py). A line has the case, the dtype, and each operation that ran, with
the dtypes of its floats and a hash of all that it wrote. `pipeline/test_processors.py` requires the
same lines from several processors. To verify an operation that is not among them, add a case that
uses it, run `--write`, and run that test, which needs `qemu-x86_64` of version 10.
"""

# mypy: disable-error-code="misc, call-overload, func-returns-value, union-attr"

import csv
import functools
import hashlib
import inspect
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from image_pipeline import numerics

    numerics.pin("portable")
    sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn, optim

from image_pipeline.augmenting.augmentation import augment
from image_pipeline.augmenting.params import AUGMENTATION_AMOUNTS, AugmentationParams
from image_pipeline.numerics import kernels
from image_pipeline.numerics.portability import (
    NOTHING,
    OPERATIONS,
    OpObserver,
    read_verified_ops,
)

FLOAT, DOUBLE = "float32", "float64"
LISTED_TYPES = (FLOAT, DOUBLE, "complex64", "complex128")
# Operation: types of its floats, hash of what it wrote, and two that leave out the signs of zeros:
# of what it wrote, and of what it read and did not write.
Seen = dict[str, tuple[list[str], str, str, str]]

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
    """Records every operation, and hashes what each one writes.

    In whatever order: compilers may evaluate the arguments of a function in any, and do.
    """

    def __init__(self) -> None:
        self._dtypes: dict[str, set[torch.dtype]] = {}
        self._digests: dict[str, list[tuple[str, ...]]] = {}  # of each call

    def record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        operation = str(func)
        dtypes = self._dtypes.setdefault(operation, set())
        dtypes |= {value.dtype for value in flat(args, kwargs, result) if isinstance(value, Tensor)}
        digests = self._digests.setdefault(operation, [])
        name = func.__name__.split(".")[0]
        if func.is_view or name in UNINITIALIZED:
            return
        found = [
            *(
                args[at] if at < len(args) else kwargs.get(argument)
                for at, argument in written(func)
            ),
            SCRATCH.get(name, lambda results: results)(result),
        ]
        read = [value for at, value in enumerate(args) if at not in {at for at, _ in written(func)}]
        digests.append((*hashes_of(found), hashes_of(read)[1]))

    def seen(self) -> Seen:
        return {
            name: (
                sorted(
                    str(dtype).removeprefix("torch.")
                    for dtype in self._dtypes[name]
                    if dtype.is_floating_point or dtype.is_complex
                ),
                *(
                    hashlib.sha256(" ".join(sorted(each)).encode()).hexdigest()[:16]
                    for each in zip(*(digests or [("", "", "")]), strict=True)
                ),
            )
            for name, digests in sorted(self._digests.items())
        }


@functools.cache
def written(func: Any) -> list[tuple[int, str]]:
    """Return the position and the name of each argument that an operation writes to."""
    return [
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info and argument.alias_info.is_write
        if argument.name != "noise"  # of rrelu, which writes it in training only
    ]


def flat(*values: Any) -> Iterator[Any]:
    """Yield what is in tuples, lists and dicts, but for None."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from flat(*value)
        elif isinstance(value, dict):
            yield from flat(*value.values())
        elif value is not None:
            yield value


def hashes_of(values: Any) -> tuple[str, str]:
    """Return two hashes of values; to the second one, the two zeros are alike.

    All NaNs are alike: IEEE 754 leaves their sign and payload open. It leaves the sign of the
    maximum of two zeros open, too, and so of relu, and ARM chooses another.
    """
    digests: list[Any] = [hashlib.sha256(), hashlib.sha256()]
    contents: tuple[Any, Any]
    for value in flat(values):
        if isinstance(value, Tensor):
            described = str((value.dtype, tuple(value.shape)))
            if value.is_complex():
                value = torch.view_as_real(value.resolve_conj())
            elif value.dtype in (torch.float16, torch.bfloat16):
                value = value.float()
            numbers = np.ascontiguousarray(value.numpy(force=True))
            if numbers.dtype.kind == "f" and (nan := np.isnan(numbers)).any():
                numbers = np.where(nan, numbers.dtype.type(np.nan), numbers)
            contents = numbers, numbers + 0.0 if numbers.dtype.kind == "f" else numbers
        else:
            described, contents = repr(value), (b"", b"")
        for digest, content in zip(digests, contents, strict=True):
            digest.update(described.encode())
            digest.update(content)
    exact, alike = (digest.hexdigest() for digest in digests)
    return exact, alike


# --- How cases are written ---

# Draws the inputs of a case in a dtype; what it yields computes with them, which is recorded.
Steps = Callable[[torch.dtype], Iterable[Callable[[], Any]]]
CASES: dict[str, tuple[Steps, tuple[str, ...]]] = {}
_rng = np.random.default_rng()
_name: str
_make: Callable[[], nn.Module]
_shape: tuple[int, ...]


def case(name: str, compute: Callable[[], Any], types: tuple[str, ...] = (FLOAT, DOUBLE)) -> None:
    assert name not in CASES, name
    CASES[name] = (lambda _: [compute], types)


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
    steps, _ = CASES[name]
    dtype = getattr(torch, type_)
    _rng = np.random.default_rng(list(name.encode()))
    torch.default_generator.manual_seed(0)
    torch.set_default_dtype(torch.float64 if type_ in (DOUBLE, "complex128") else torch.float32)
    try:
        recorder = Recorder()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in steps(dtype):
                with OpObserver(recorder.record):
                    step()
    except Exception as error:
        raise RuntimeError(f"the case {name!r} in {type_}: {error}") from error
    finally:
        torch.set_default_dtype(torch.float32)
    seen = recorder.seen()
    total = hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
    return {"case": name, "type": type_, "hash": total, "operations": seen}


def run_all() -> Iterator[dict[str, Any]]:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that it has no CUDA
    from numerics import op_samples  # takes seconds

    CASES.update(op_samples.cases())
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
            # Not what was read, which may be memory that nothing was written to.
            if a["operations"].get(operation, [])[:2] != b["operations"].get(operation, [])[:2]
        ]
    return found


# --- More numbers than PyTorch's samples have, and what these leave out ---


def reductions() -> None:
    """Along each dimension, of numbers that are stored one after the other and apart."""
    for x in (normal(3, 41, 19), normal(17, 35, 3).transpose(0, 2), normal(2, 9, 4)):
        for name in words("sum mean var norm logsumexp amax softmax log_softmax cumsum"):
            learn(lambda x, name=name: [getattr(x, name)(dim=d) for d in range(3)], x)
        learn(lambda x: [x.sort(1).values, x.topk(3, 1).values, x.cumprod(1), x.amin((0, 2))], x)
        learn(lambda x: [x.std((0, 2)), x.prod(1), x.norm(1), torch.cdist(x, x.flip(1), p=1.0)], x)
    learn(lambda x: [x.sum(), x.mean(), x.var(), x.norm()], normal(70001))
    normal(3, 20011).sum(1), normal(20011, 3).sum(0), normal(20011, 3).mean(0)


def products() -> None:
    for draw in (normal, complex_normal):
        for m, k, n in ((65, 784, 37), (33, 17, 10), (1, 7, 5), (7, 1, 5), (5, 0, 3), (0, 5, 3)):
            learn(torch.mm, draw(m, k), draw(k, n))
            learn(torch.addmm, draw(n), draw(m, k), draw(k, n))
        learn(torch.mm, draw(65, 33).mH, draw(37, 65).mT)
        learn(torch.bmm, draw(6, 33, 17), draw(6, 17, 25))
        learn(torch.baddbmm, draw(6, 33, 25), draw(6, 33, 17), draw(6, 17, 25))
        learn(torch.mv, draw(67, 33), draw(33))
        learn(torch.addmv, draw(67), draw(67, 33), draw(33))
        learn(torch.dot, draw(1037), draw(1037)), learn(torch.vdot, draw(1037), draw(1037))
        learn(
            lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b), draw(2, 3, 9, 17), draw(2, 3, 7, 17)
        )


def left_out() -> None:
    x, y, out = normal(31, 37), normal(31, 37), torch.zeros(31, 37)
    for scalar in (0.7, torch.tensor(0.7)):
        learn(lambda x, s=scalar: [x % s, x.fmod(s), x * s, torch.xlogy(x.abs(), s)], x)
    y.fmod_(0.4).remainder_(0.3).clamp_max_(0.2).fill_(torch.tensor(0.5))
    learn(lambda x: [x.clamp_max(0.3), x.slice_scatter(x[:, :2], 1, 0, 2)], x)
    learn(torch.lerp, x, normal(31, 37), uniform(31, 37))
    for activation in (F.hardtanh_, functools.partial(F.hardswish, inplace=True)):
        learn(lambda x, f=activation: f(x * 1.5), x)
    torch.clamp(x, 0, 1, out=out), torch.sum(x, 0, out=torch.zeros(37))
    for draw in (normal, complex_normal):
        torch.ops.aten.mul_.Scalar(draw(31, 37), 0.5)  # the derivative of an inverse transform
    learn(lambda x: torch.cdist(x, x.flip(0), compute_mode="use_mm_for_euclid_dist"), x)
    with torch.inference_mode():
        torch.tensor([0])  # calls detach_
    for name in words("bartlett blackman hamming hann kaiser"):
        getattr(torch, f"{name}_window")(9)


def resize() -> None:
    for mode in ("bilinear", "bicubic"):
        for size in ((5, 4), (11, 13)):
            for x in (normal(2, 3, 9, 8), normal(2, 3, 9, 8).to(memory_format=torch.channels_last)):
                learn(lambda x, s=size, m=mode: F.interpolate(x, s, mode=m, antialias=True), x)
    for mode in ("nearest", "nearest-exact"):
        learn(lambda x, m=mode: F.interpolate(x, (5, 6, 7), mode=m), normal(2, 3, 4, 3, 5))


case("sums and orders", reductions)
case("matrix products", products)
case("left out", left_out)
case("resize", resize)

# --- Random numbers ---


def draws() -> None:
    g = torch.Generator().manual_seed(5)
    for generator in (None, g):
        torch.rand(1037, generator=generator)
        torch.randn(1037, generator=generator)
        torch.randn(7, generator=generator)
        torch.randint(0, 99, (1037,), generator=generator)
        torch.randint(99, (5,), generator=generator)
        torch.randperm(1037, generator=generator)
        x = torch.empty(37, 31)
        x.uniform_(-2, 3, generator=generator)
        x.normal_(1, 2, generator=generator)
        x.bernoulli_(0.3, generator=generator)
        x.exponential_(1.5, generator=generator)
        x.log_normal_(generator=generator)
        x.cauchy_(generator=generator)
        x.geometric_(0.3, generator=generator)
        x.random_(generator=generator)
        x.random_(9, generator=generator)
        x.random_(2, 9, generator=generator)
        x.bernoulli_(x.uniform_(generator=generator))
        torch.bernoulli(uniform(37), generator=generator)
        torch.multinomial(uniform(5, 37), 7, generator=generator)
        torch.multinomial(uniform(5, 37), 70, replacement=True, generator=generator)
        torch.normal(uniform(37), uniform(37), generator=generator)
        torch.normal(0.0, uniform(37), generator=generator)
        torch.normal(uniform(37), 1.0, generator=generator)
        torch.poisson(9 * uniform(37), generator=generator)
        torch.normal(1.0, 2.0, (37,), generator=generator)
        torch.empty(37, dtype=torch.bool).bernoulli_(0.4, generator=generator)
    torch.rand_like(x), torch.randn_like(x), torch.randint_like(x, 9)
    torch.randint(9, (37,)), torch.randint(-3, 9, (37,)), torch.randn(37, 31)
    torch.empty(31, 37).t().bernoulli_(0.2)
    torch.empty(37, 31)[:, ::2].uniform_()
    torch.manual_seed(3)
    torch.distributions.Beta(0.3, 0.4).sample((37,))
    torch.distributions.Gamma(0.3, 0.4).sample((37,))
    torch.distributions.Dirichlet(uniform(5)).sample((37,))
    torch.distributions.Categorical(uniform(5)).sample((37,))


case("random numbers", draws)


def initializers() -> None:
    for name in words(
        """
        uniform_ normal_ trunc_normal_ ones_ zeros_ eye_ xavier_uniform_ xavier_normal_
        kaiming_uniform_ kaiming_normal_
        """
    ):
        getattr(nn.init, name)(torch.empty(37, 33))
    nn.init.constant_(torch.empty(37), 0.3)
    nn.init.dirac_(torch.empty(4, 4, 3, 3))
    nn.init.sparse_(torch.empty(37, 33), 0.1)
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
layer("dropout", lambda: nn.Dropout(0.3), 5, 7, 6, 9, last=True)
case(
    "gumbel softmax",
    lambda: (
        learn(lambda x: F.gumbel_softmax(x, 0.7), normal(31, 9)),
        learn(lambda x: F.gumbel_softmax(x, 0.7, hard=True), normal(31, 9)),
    ),
)

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
    ("conv2d depthwise", lambda: nn.Conv2d(24, 24, 3, padding=1, groups=24), (9, 24, 9, 9)),
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
# --- Norms, pools, sizes ---

for _name, _make, _shape in (
    ("batch norm 1d", lambda: nn.BatchNorm1d(37), (33, 37)),
    ("batch norm 3d", lambda: nn.BatchNorm3d(5), (3, 5, 4, 6, 5)),
    ("layer norm", lambda: nn.LayerNorm(133), (33, 133)),
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
):
    layer(_name, _make, *_shape)
for _name, _make, _shape in (
    ("batch norm 2d", lambda: nn.BatchNorm2d(20), (9, 20, 7, 7)),
    ("group norm", lambda: nn.GroupNorm(4, 20), (9, 20, 7, 7)),
    ("instance norm", lambda: nn.InstanceNorm2d(20, affine=True), (5, 20, 7, 7)),
    (
        "instance norm with statistics",
        lambda: nn.InstanceNorm2d(6, track_running_stats=True),
        (5, 6, 7, 7),
    ),
    ("local response norm", lambda: nn.LocalResponseNorm(3), (3, 9, 7, 7)),
    ("max pool 3x3/2", lambda: nn.MaxPool2d(3, 2, 1, dilation=1), (5, 3, 9, 8)),
    ("average pool", lambda: nn.AvgPool2d(3, 2, 1), (5, 20, 9, 8)),
    ("global average pool", lambda: nn.AdaptiveAvgPool2d(1), (5, 20, 9, 8)),
    ("adaptive average pool", lambda: nn.AdaptiveAvgPool2d((3, 2)), (5, 20, 9, 8)),
    ("adaptive max pool", lambda: nn.AdaptiveMaxPool2d((3, 2)), (5, 20, 9, 8)),
    ("fractional pool", lambda: nn.FractionalMaxPool2d(2, output_ratio=0.6), (2, 3, 8, 8)),
    ("reflected padding", lambda: nn.ReflectionPad2d((1, 2, 3, 1)), (3, 4, 7, 6)),
    ("replicated padding", lambda: nn.ReplicationPad2d((1, 2, 3, 1)), (3, 4, 7, 6)),
    ("upsample nearest", lambda: nn.Upsample(scale_factor=2), (3, 4, 7, 6)),
    (
        "upsample nearest exact",
        lambda: nn.Upsample(size=(5, 9), mode="nearest-exact"),
        (3, 4, 7, 6),
    ),
    ("upsample bilinear", lambda: nn.Upsample(scale_factor=1.7, mode="bilinear"), (3, 4, 7, 6)),
    ("upsample bicubic", lambda: nn.Upsample(scale_factor=1.7, mode="bicubic"), (3, 4, 7, 6)),
):
    layer(_name, _make, *_shape, last=True)


# --- Warps ---


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
    learn(lambda x: F.nll_loss(x.log_softmax(1), labels), x)
    learn(lambda x: F.multi_margin_loss(x, labels), x)
    learn(lambda x: F.multilabel_margin_loss(x, classes(10, 67, 10)), x)
    learn(lambda x: F.multilabel_soft_margin_loss(x, uniform(67, 10)), x)


case("losses of classes", losses_of_classes)
# --- Sequences and attention ---

for _name, _make in {
    "embedding": lambda: nn.Embedding(37, 17, padding_idx=0),
    "embedding scaled": lambda: nn.Embedding(37, 17, scale_grad_by_freq=True),
    "embedding bag": lambda: nn.EmbeddingBag(37, 17),
    "embedding bag sum": lambda: nn.EmbeddingBag(37, 17, mode="sum"),
    "embedding bag max": lambda: nn.EmbeddingBag(37, 17, mode="max"),
}.items():
    layer(_name, lambda make=_make: nn.Sequential(Indices(), make()), 9, 11)


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


def two_layers(inputs: int, outputs: int) -> nn.Module:
    return First(nn.LSTM(inputs, outputs, 2, dropout=0.3, bidirectional=True, batch_first=True))


layer("LSTM of two layers with dropout", lambda: two_layers(17, 20), 7, 5, 17)
layer("LSTM of two layers with dropout, one image", lambda: two_layers(5, 6), 1, 5, 5)
layer(
    "LSTM of two layers with dropout, wide",
    lambda: two_layers(96, 160),
    *(65, 5, 96),
    types=(FLOAT,),
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
layer("multi-head attention", Attention, 3, 11, 24)
layer("multi-head attention with dropout", lambda: Attention(dropout=0.2), 3, 11, 24)


def attention() -> None:
    q, k, v = (normal(2, 3, length, 16) for length in (37, 41, 41))
    mask = normal(37, 41)
    for options in (
        *({}, {"is_causal": True}, {"dropout_p": 0.2}),
        *({"attn_mask": mask > 0}, {"attn_mask": mask, "scale": 0.3}),
    ):
        learn(functools.partial(F.scaled_dot_product_attention, **options), q, k, v)
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

# --- Optimizers' lists of tensors, averages of weights ---


def averaging() -> None:
    model = fill(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)))
    ema = optim.swa_utils.AveragedModel(
        model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    swa = optim.swa_utils.AveragedModel(model)
    for _ in range(3):
        model(normal(9, 5)).sum().backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        for norm_type in (1.0, float("inf")):
            nn.utils.clip_grad_norm_(model.parameters(), 0.1, norm_type=norm_type)
        ema.update_parameters(model), swa.update_parameters(model)
    nn.utils.parameters_to_vector(model.parameters())


case("averages of weights, clipped gradients", averaging)


def foreach() -> None:
    a, b = [uniform(33), uniform(5, 7)], [uniform(33), uniform(5, 7)]

    def both(name: str, *arguments: Any, **options: Any) -> None:
        """Compute what returns new tensors, and what writes in place."""
        getattr(torch, f"_foreach_{name}")(a, *arguments, **options)
        getattr(torch, f"_foreach_{name}_")([x.clone() for x in a], *arguments, **options)

    for name in words("add sub mul div maximum minimum pow"):
        for other in (b, 0.3, [0.3, 0.4]):
            both(name, other)
    for name in words("sqrt rsqrt exp log neg abs reciprocal sign sigmoid tanh round"):
        both(name)
    both("lerp", b, 0.3), both("lerp", b, b), both("add", b, alpha=0.4)
    both("addcmul", a, b, 0.3), both("addcdiv", a, b, 0.3)
    both("mul", torch.tensor(0.4)), both("div", torch.tensor(0.4))
    both("clamp_min", 0.4), both("clamp_max", 0.4)
    torch._foreach_norm(a)
    torch._foreach_copy_([x.clone() for x in a], b), torch._foreach_zero_([x.clone() for x in a])


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
    all any logical_not_ _local_scalar_dense _reshape_copy _shape_as_tensor _to_copy
    _unsafe_index _unsafe_view cat
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
OF_MLAS = {"addbmm", "convolution", "convolution_backward", "erf", "gelu", "gelu_backward", "mv"}
OF_MLAS |= {name.split(".")[0].removesuffix("_") for name in kernels.PRODUCTS}
OF_KERNELS = {name.split(".")[0].removesuffix("_") for name in kernels.ALL}
OF_MKL = [
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    *("_fft_c2c", "_fft_c2r", "_fft_r2c"),
]


def computed_by(operation: str, types: set[str]) -> str:
    """Return the library that computes an operation such as `aten.add.Tensor`."""
    name = operation.split(".")[1]
    func = overload_of(operation)
    if func.is_view or not types or name in COPIES:
        return NOTHING
    bare = name.removeprefix("_foreach_").removesuffix("_")
    if bare in OF_MLAS:
        return "MLAS"
    if {bare, name.removesuffix("_")} & OF_KERNELS:
        return "kernels"
    return "MKL compatible" if name in OF_MKL else "torch"


def same_on(lines: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Return the operations that another processor computes to the same bits, with their dtypes.

    It does if it writes the same wherever it reads the same. (In a case where it reads something
    else, an operation before it differs, or there are as many of it in another order.) Where
    nothing else explains a difference, operations that write to their arguments do.
    """
    same: dict[str, set[str]] = {}
    differing: dict[str, set[str]] = {}
    for one, other in zip(lines, others, strict=True):
        assert (one["case"], one["type"]) == (other["case"], other["type"])
        expected, found = one["operations"], other["operations"]
        apart = {
            name
            for name in expected.keys() & found.keys()
            if (expected[name][0], expected[name][2]) != (found[name][0], found[name][2])
        }
        first = {name for name in apart if expected[name][3] == found[name][3]}
        writers = {name for name in first if writes(name)}
        for name in first - writers or writers:
            types = {*expected[name][0]}  # if there are complex ones, it is they that differ
            types = {type_ for type_ in types if "complex" in type_} or types
            differing.setdefault(name, set()).update(types)
        for name in expected.keys() & found.keys() - apart:
            same.setdefault(name, set()).update(expected[name][0])
    return {name: types - differing.get(name, set()) for name, types in same.items()}


def writes(operation: str) -> bool:
    """Return whether an operation such as `aten.add_.Tensor` writes to one of its arguments."""
    return bool(written(overload_of(operation)))


def overload_of(operation: str) -> Any:
    namespace, name, overload = operation.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), overload)


def to_list(lines: list[dict[str, Any]], on_arm: dict[str, set[str]]) -> str:
    """Return the operations that the cases cover, as CSV, each with the case of the most dtypes.

    Args:
        lines: of the cases.
        on_arm: the operations that ARM computes to the same bits, with their dtypes.
    """
    evidence: dict[str, tuple[str, set[str]]] = {}
    by_case: dict[str, dict[str, set[str]]] = {}
    for line in lines:
        for operation, (types, *_) in line["operations"].items():
            by_case.setdefault(line["case"], {}).setdefault(operation, set()).update(types)
    for name, operations in by_case.items():
        for operation, types in operations.items():
            known = types & {*LISTED_TYPES}
            if operation not in evidence or known > evidence[operation][1]:
                evidence[operation] = (name, known)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["operation", "computed_by", "types", "on_arm", "evidence"])
    for operation, (name, types) in sorted(evidence.items()):
        by = computed_by(operation, types)
        listed = set() if by == NOTHING else types
        arm = listed & on_arm.get(operation, set())
        writer.writerow([operation, by, *(" ".join(sorted(each)) for each in (listed, arm)), name])
    return text.getvalue()


if __name__ == "__main__":
    lines = []
    for line in run_all():
        lines.append(json.loads(json.dumps(line)))  # as they are read
        if sys.argv[1:2] != ["--write"]:
            print(json.dumps(line), flush=True)
    if sys.argv[1:2] == ["--write"]:
        known = {name: set(row.on_arm) for name, row in read_verified_ops().items()}
        for path in map(Path, sys.argv[2:]):
            printed = path.read_text(encoding="utf-8").splitlines()
            known = same_on(lines, [json.loads(line) for line in printed if line[0] == "{"])
        OPERATIONS.write_text(to_list(lines, known), encoding="utf-8", newline="")
