"""The kernels against PyTorch's own, float64 references and NumPy's functions."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor
from torch.nn import functional

from image_pipeline.numerics import kernels, products, registration, sums
from numerics import own_samples
from numerics.own_samples import pytorchs_kernels

NAN = math.nan


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    kernels.install()
    kernels.install()  # a second time changes nothing


def values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", own_samples.names())
def test_pytorchs_own_samples(name: str) -> None:
    """On ARM: pipeline/test_processors.py."""
    own_samples.compare(name)


SIZES = [(2, 3), (1, 5), (7, 1), (1, 1), (9, 70), (70, 9), (64, 64), (65, 64), (3, 65)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("terms", [1, 17, 128, 129, 300, 700])
def test_the_order_of_a_products_sums(dtype: torch.dtype, terms: int) -> None:
    """Blocks of 128 terms, each a chain of fused multiply-adds, are added in order."""
    for rows, columns in SIZES:
        a, b = values(rows, terms).to(dtype), values(terms, columns).to(dtype)  # exact products
        total = torch.zeros(rows, columns, dtype=dtype)
        for start in range(0, terms, products.BLOCK):
            chain = torch.zeros(rows, columns, dtype=dtype)
            for k in range(start, min(terms, start + products.BLOCK)):
                exact = a[:, k, None].double() * b[k].double() + chain.double()
                chain = exact.to(dtype)
            total = total + chain
        assert torch.mm(a, b).equal(total), (rows, columns)
        batch = torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))
        assert batch.equal(total.expand(2, -1, -1))
        assert torch.mm(b.t(), a.t()).equal(total.t())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions(layout: torch.memory_format, groups: int, transposed: bool) -> None:
    """Of all geometries, several images at a time, against PyTorch's own in float64."""
    for kernel, stride, padding, dilation in itertools.product((1, 3), (1, 2), (0, 1), (1, 2)):
        if transposed and padding > dilation * (kernel - 1):
            continue
        images = values(3, 6, 9, 8).to(memory_format=layout).requires_grad_()
        weight = values(6, 6 // groups, kernel, kernel).requires_grad_()
        bias = values(6).requires_grad_()
        make: Any = functional.conv_transpose2d if transposed else functional.conv2d
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        computed = make(images, weight, bias, **options)
        gradients = torch.autograd.grad(computed.square().sum(), (images, weight, bias))
        with pytorchs_kernels():
            wide = [x.detach().double().requires_grad_() for x in (images, weight, bias)]
            expected = make(*wide, **options)
            slopes = torch.autograd.grad(expected.square().sum(), wide)
        assert computed.is_contiguous(memory_format=layout)
        for ours, theirs in zip((computed, *gradients), (expected, *slopes), strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("columns", range(1, 10))
def test_sums_of_few_neighbours_are_not_those_of_a_vector(columns: int) -> None:
    x = values(301, columns)
    torch.testing.assert_close(x.sum(0), x.double().sum(0).float(), rtol=1e-5, atol=1e-5)
    if columns in sums.VECTOR:
        assert x.sum(0).numpy().tobytes() == np.add.reduce(x.numpy(), axis=0).tobytes()
        assert x.t().contiguous().sum(1).shape == (columns,)
        assert x.sum(1).numpy().tobytes() == np.add.reduce(x.numpy(), axis=1).tobytes()


OPTIMIZERS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    (torch.optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.2, "maximize": True}),
]


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_fused_steps_are_those_of_the_plain_optimizer(
    optimizer: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    found = []
    for fused in (True, False):
        weights = torch.nn.Parameter(values(50))
        one = optimizer([weights], lr=0.01, fused=fused, foreach=False, **options)  # type: ignore[call-arg]
        for step in range(6):
            weights.grad = values(50 + step)[step:]
            one.step()
        found.append(weights.detach())
    assert found[0].equal(found[1])


def test_normalised_weights() -> None:
    x = values(5, 3, 2, dtype=torch.float64).requires_grad_()
    scale = values(5, 1, 1, dtype=torch.float64).abs().requires_grad_()
    weight_norm: Any = torch._weight_norm_interface
    assert torch.autograd.gradcheck(lambda x, scale: weight_norm(x, scale, 0)[0], (x, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_normal_draws(dtype: torch.dtype) -> None:
    draws = torch.empty(100_001, dtype=dtype).normal_(2, 3, generator=generator()).double()
    assert scipy.stats.kstest(draws[:20_000].numpy(), "norm", (2, 3)).pvalue > 0.01
    assert (
        torch.empty(3).normal_(generator=generator()).equal(torch.randn(3, generator=generator()))
    )


def test_beta_zero_ignores_the_added_tensor() -> None:
    a, b, nan = values(2, 3), values(3, 2), torch.full((2, 2), NAN)
    assert torch.addmm(nan, a, b, beta=0).equal(torch.mm(a, b))
    assert torch.baddbmm(nan, a[None], b[None], beta=0).equal(torch.mm(a, b)[None])
    assert torch.addmv(nan[0], a, b[:, 0], beta=0).equal(torch.mv(a, b[:, 0]))
    assert torch.addmm(nan, a, b, beta=0.5).isnan().all()


def test_infinity_and_overflow_do_not_warn() -> None:
    large, infinite = torch.full((2, 2), 3e38), torch.full((2, 2), math.inf)
    assert torch.mm(large, large).equal(infinite)
    assert torch.mm(infinite, torch.zeros(2, 2)).isnan().all()
    assert torch.addmm(-infinite, infinite, torch.ones(2, 2)).isnan().all()


def test_out_receives_the_result_and_its_shape() -> None:
    a, b, c = values(4, 3), values(3, 2), values(4, 2)
    for out in (torch.empty(0), torch.empty(4, 2), torch.empty(2, 4).t()):
        assert torch.mm(a, b, out=out) is out
        assert out.equal(torch.mm(a, b))
        torch.addmm(c, a, b, out=out)
        assert out.equal(torch.addmm(c, a, b))
    with pytest.warns(UserWarning, match=r"was resized since it had shape \[5\]"):
        assert torch.mv(a, b[:, 0], out=torch.empty(5)).equal(torch.mv(a, b[:, 0]))
    square = values(3, 3)
    expected = square @ square
    assert torch.mm(square, square, out=square).equal(expected)
    with pytest.raises(RuntimeError, match="dtype"):
        torch.mm(a, b, out=torch.empty(4, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: torch.mm(values(2, 3), values(2, 3)), "shapes cannot be multiplied"),
        (lambda: torch.mm(values(2, 3), values(3, 2).double()), "same dtype"),
        (lambda: torch.mm(values(3), values(3, 2)), "matri"),
        (lambda: torch.mm(values(1, 2, 3), values(1, 3, 2)), "matri"),
        (lambda: torch.bmm(values(2, 3, 4), values(3, 4, 2)), "batch"),
        (lambda: torch.addmm(values(5), values(2, 3), values(3, 2)), "expand|size"),
        (lambda: torch.addmm(values(5), values(2, 3), values(3, 2), beta=0), "expand|size"),
        (lambda: torch.addmm(values(2).double(), values(2, 3), values(3, 2)), "dtype"),
        (lambda: torch.dot(values(3), values(4)), "inconsistent tensor size"),
        (lambda: torch.addmv(values(2), values(2, 3), values(2)), "size mismatch|mat"),
    ],
)
def test_mismatches_raise_pytorchs_own_errors(wrong: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        wrong()


def test_lazily_negated_views() -> None:
    a = torch.complex(values(3, 3), values(3, 3))
    negated = a.conj().imag
    assert torch.mm(negated, values(3, 3)).equal(torch.mm(-a.imag, values(3, 3)))


def test_square_roots_are_correctly_rounded() -> None:
    x = values(5003).abs()
    expected = torch.from_numpy(np.sqrt(x.double().numpy()).astype(np.float32))
    assert torch.sqrt(x).equal(expected)
    assert (x**0.5).equal(expected)
    assert x.clone().sqrt_().equal(expected)
    assert x.clone().pow_(0.5).equal(expected)
    assert torch.pow(x, 0.5, out=torch.empty(0)).equal(expected)
    assert torch.sqrt(x.expand(2, 5003)[:, ::3]).equal(expected.expand(2, 5003)[:, ::3])
    assert torch._foreach_sqrt([x])[0].equal(expected)


def test_square_roots_of_special_values() -> None:
    x = torch.tensor([0.0, -0.0, math.inf, -1.0, NAN, 1e-45])
    root = torch.sqrt(x)
    assert root[:3].tolist() == [0.0, 0.0, math.inf]
    assert root[1].signbit()
    assert root[3:5].isnan().all()
    assert root[5].item() == pytest.approx(math.sqrt(1.401298464324817e-45))


def test_square_roots_in_another_dtype() -> None:
    double = torch.empty(1, dtype=torch.float64)
    assert torch.sqrt(torch.tensor([2.0]), out=double).item() == math.sqrt(2) or double.item() == (
        np.float32(math.sqrt(2)).item()
    )
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.sqrt(torch.tensor([4.0]), out=torch.empty(1, dtype=torch.int64))


def test_square_roots_keep_the_memory_format() -> None:
    x = values(2, 3, 4, 5).abs().to(memory_format=torch.channels_last)
    assert torch.sqrt(x).is_contiguous(memory_format=torch.channels_last)


def test_other_powers_fall_back_to_pytorch() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert (x**2).tolist() == [1, 4, 9]
    assert x.clone().pow_(3).tolist() == [1, 8, 27]
    assert torch.pow(x, -1, out=torch.empty(3)).equal(1 / x)
    assert (torch.tensor([2, 3]) ** 2).tolist() == [4, 9]


# --- Draws ---


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bool, torch.int64]
)
def test_bernoulli_draws(dtype: torch.dtype) -> None:
    draws = torch.empty(1000, 100, dtype=dtype).bernoulli_(0.3, generator=generator())
    assert draws.unique().tolist() == [0, 1]
    assert draws.double().mean().item() == pytest.approx(0.3, abs=0.005)  # deviates by 0.0015
    assert draws.double().mean(0).std().item() == pytest.approx(math.sqrt(0.21 / 1000), rel=0.3)
    assert draws.equal(torch.empty(1000, 100, dtype=dtype).bernoulli_(0.3, generator=generator()))
    assert not draws.equal(torch.empty_like(draws).bernoulli_(0.3, generator=generator(4)))


def test_bernoulli_with_p_of_0_and_1() -> None:
    assert torch.empty(1000).bernoulli_(0).equal(torch.zeros(1000))
    assert torch.empty(1000).bernoulli_(1).equal(torch.ones(1000))
    with pytest.raises(RuntimeError, match="p to be in"):
        torch.empty(3).bernoulli_(1.1)
    transposed = torch.zeros(4, 6).t()[:, ::2]
    assert transposed.bernoulli_(1.0).equal(torch.ones(6, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_exponential_draws(dtype: torch.dtype) -> None:
    draws = torch.empty(1000, 100, dtype=dtype).exponential_(2, generator=generator())
    assert draws.min() >= 0 if dtype is torch.float16 else draws.min() > 0
    assert draws.double().mean().item() == pytest.approx(0.5, abs=0.008)  # deviates by 0.0016
    assert draws.double().std().item() == pytest.approx(0.5, abs=0.02)
    assert (draws > 1).double().mean().item() == pytest.approx(math.exp(-2), abs=0.006)
    assert draws.equal(torch.empty(1000, 100, dtype=dtype).exponential_(2, generator=generator()))


def test_exponential_draws_are_never_zero() -> None:
    smallest = torch.finfo(torch.float32).eps / 2
    torch.manual_seed(5)
    draws = torch.empty(1 << 22).exponential_()
    assert draws.min() >= smallest
    with pytest.raises(RuntimeError, match="lambda"):
        torch.empty(3).exponential_(0)


def test_dropout_and_multinomial_use_these_draws() -> None:
    torch.manual_seed(5)
    dropped = torch.nn.functional.dropout(torch.ones(1000), 0.3)
    torch.manual_seed(5)
    assert dropped.equal((torch.rand(1000) < 0.7).float() / 0.7)
    torch.manual_seed(5)
    drawn = torch.multinomial(torch.ones(10), 10)
    torch.manual_seed(5)
    assert drawn.equal(torch.empty(10).exponential_().argsort())


# --- Elementwise functions that PyTorch would take from MKL ---

FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, float]] = {
    "exp": (np.exp, -80, 80),
    "log": (np.log, 1e-9, 30),
    "log2": (np.log2, 1e-9, 30),
    "log10": (np.log10, 1e-9, 30),
    "sin": (np.sin, -20, 20),
    "cos": (np.cos, -20, 20),
    "tan": (np.tan, -20, 20),
    "asin": (np.arcsin, -1, 1),
    "acos": (np.arccos, -1, 1),
    "atan": (np.arctan, -9, 9),
    "tanh": (np.tanh, -9, 9),
    "erf": (scipy.special.erf, -4, 4),
    "erfc": (scipy.special.erfc, -4, 8),
    "erfinv": (scipy.special.erfinv, -0.9999, 0.9999),
}
EDGES = torch.tensor([0.0, -0.0, math.inf, -math.inf, NAN, 1, -1, 2, -2, 1e-30, -1e-30, 700, -700])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_accurate_to_a_few_ulps(name: str) -> None:
    reference, low, high = FUNCTIONS[name]
    x = np.random.default_rng(0).uniform(low, high, 20_001)
    x[1::2] *= np.random.default_rng(1).uniform(0, 1, 10_000) ** 8  # many near zero
    x[1::2] += 1e-9 * (low > 0)
    for type_, units in ((np.float32, 3), (np.float64, 2000 if "erf" in name else 4)):
        exact = reference(x.astype(type_).astype(np.float64))
        computed = getattr(torch, name)(torch.from_numpy(x.astype(type_))).numpy()
        assert computed.dtype == type_
        assert np.abs(computed - exact).max() < units * np.spacing(
            np.abs(exact).max().astype(type_)
        )
        assert (np.abs(computed - exact) / np.spacing(np.abs(exact.astype(type_)))).max() < units
    expected = registration.fall_back(name, EDGES)  # MKL's
    torch.testing.assert_close(getattr(torch, name)(EDGES), expected, equal_nan=True)
    assert (
        getattr(EDGES.clone(), f"{name}_")().signbit().equal(getattr(torch, name)(EDGES).signbit())
    )
