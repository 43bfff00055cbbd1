"""The kernels against PyTorch's own, float64 references and NumPy's functions."""

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from image_pipeline.numerics import kernels

NAN = math.nan
SHAPES = (9, 17), (17, 5)


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    kernels.install()
    kernels.install()  # a second time changes nothing


def values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
    assert actual.dtype is dtype
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-2, atol=2e-2) if (
        dtype.itemsize == 2
    ) else torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-5, atol=1e-5)
    assert actual.shape == expected.shape


@contextlib.contextmanager
def pytorchs_kernels() -> Iterator[None]:
    kernels._library = None  # this unregisters ours
    kernels._replaced.clear()
    try:
        yield
    finally:
        kernels.install()


CALLERS = {"addbmm", "mv", "nn.functional.linear"}  # of products
REPLACED = {name.split(".")[0].removesuffix("_") for name in kernels.PRODUCTS | kernels.OTHERS}
# The two that PyTorch has no samples of, and the one that draws other numbers than PyTorch's.
WITHOUT_SAMPLES = {"_slow_conv2d_forward", "_slow_conv2d_backward", "exponential"}
# Of sums of up to 50 products, as `op_db` has them for `addbmm` and for `baddbmm`.
TOLERANCES: dict[torch.dtype, Any] = {
    torch.float32: {"rtol": 1.3e-5, "atol": 1.3e-5},
    torch.complex64: {"rtol": 4e-6, "atol": 4e-5},
}


@pytest.mark.parametrize("name", sorted((REPLACED | CALLERS) - WITHOUT_SAMPLES))
def test_pytorchs_own_samples(name: str) -> None:
    """Values, gradients, results in place and in `out`, and errors, in every dtype."""
    from numerics import op_samples  # takes seconds

    sums = name in kernels.PRODUCTS or name in CALLERS
    ops = [op for op in op_samples.operations() if name in (op.name, op.aten_name)]
    assert ops
    for op in ops:
        for dtype in op.supported_dtypes("cpu"):
            gradients = dtype in op.supported_backward_dtypes("cpu")
            samples = [*op.sample_inputs_func(op, "cpu", dtype, gradients)]
            samples += [sample.noncontiguous() for sample in samples]
            samples += op_samples.wide(op, dtype, gradients)
            computed = compute(op, samples)
            with pytorchs_kernels():
                expected = compute(op, samples)
            for ours, theirs in zip(computed, expected, strict=True):
                if isinstance(theirs, str):
                    assert ours == theirs
                else:
                    tolerance = TOLERANCES.get(dtype, {}) if sums else {}
                    torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)


def compute(op: Any, samples: list[Any]) -> list[Any]:
    from numerics import op_samples

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        computed = [op_samples.compute(op, sample, variants=True) for sample in samples]
    return [*itertools.chain(*computed)]


def product_in_double(a: Tensor, b: Tensor) -> Tensor:
    """Multiply elementwise and sum, without a product kernel."""
    return (a.double().unsqueeze(-1) * b.double().unsqueeze(-3)).sum(-2)


def test_products_are_numpys() -> None:
    a, b = values(65, 33), values(33, 17)
    expected = np.matmul(a.numpy(), b.numpy())
    assert np.array_equal(torch.mm(a, b).numpy(), expected)
    assert np.array_equal((a.requires_grad_() @ b).detach().numpy(), expected)
    assert np.array_equal(
        torch.mv(a, b[:, 0]).detach().numpy(), a.detach().numpy() @ b[:, 0].numpy()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_convolutions_by_one_pixel_are_products(
    dtype: torch.dtype, layout: torch.memory_format, count: int
) -> None:
    images = values(count, 5, 3, 4, dtype=dtype).to(memory_format=layout).requires_grad_()
    weight, bias = values(7, 5, dtype=dtype), values(7, dtype=dtype)
    kernels_, added = weight[:, :, None, None].requires_grad_(), bias.requires_grad_()
    result = torch.ops.aten._slow_conv2d_forward(images, kernels_, [1, 1], added, [1, 1], [0, 0])
    pixels = images.detach().permute(0, 2, 3, 1).reshape(-1, 5)  # [B * H * W, C]
    expected = product_in_double(pixels, weight.t()) + bias.double()
    assert_close(result, expected.reshape(count, 3, 4, 7).permute(0, 3, 1, 2), dtype)
    assert result.is_contiguous(memory_format=layout)
    gradient = values(count, 7, 3, 4, dtype=dtype)
    result.backward(gradient)
    rows = gradient.permute(0, 2, 3, 1).reshape(-1, 7)
    by_images = product_in_double(rows, weight).reshape(count, 3, 4, 5).permute(0, 3, 1, 2)
    by_weight = product_in_double(rows.t(), pixels)[:, :, None, None]
    for leaf, by_leaf in (
        (images, by_images),
        (kernels_, by_weight),
        (added, rows.double().sum(0)),
    ):
        assert leaf.grad is not None
        assert_close(leaf.grad, by_leaf, dtype)


def test_convolutions_by_more_pixels_are_pytorchs() -> None:
    images, weight = values(2, 5, 3, 4), values(7, 5, 2, 2).requires_grad_()
    result = torch.ops.aten._slow_conv2d_forward(images, weight, [2, 2], None, [1, 1], [0, 0])
    assert_close(result, torch.nn.functional.conv2d(images.double(), weight.double()))
    result.sum().backward()
    patches = torch.nn.functional.unfold(images, 2).sum((0, 2)).reshape(1, 5, 2, 2)
    assert weight.grad is not None
    assert_close(weight.grad, patches.expand(7, 5, 2, 2))


def test_any_memory_layout() -> None:
    a, b = values(9, 17), values(17, 5)
    wide = values(18, 40)
    for x in (
        a,
        a.t().contiguous().t(),
        wide[::2, ::2][:, :17],
        a[:1].expand(9, 17),
        a[:, :1].expand(9, 17),
    ):
        assert_close(torch.mm(x, b), product_in_double(x, b))
    cube = values(17, 9, 3).permute(2, 1, 0)
    assert_close(torch.bmm(cube, b.expand(3, 17, 5)), product_in_double(cube, b.expand(3, 17, 5)))
    transposed = values(3, 5, 17).transpose(1, 2)
    assert_close(torch.bmm(cube, transposed), product_in_double(cube, transposed))


def test_empty_products() -> None:
    assert torch.mm(values(3, 0), values(0, 2)).equal(torch.zeros(3, 2))
    assert torch.mm(values(0, 3), values(3, 2)).shape == (0, 2)
    assert torch.bmm(values(0, 3, 4), values(0, 4, 2)).shape == (0, 3, 2)
    assert torch.addmm(torch.ones(2), values(3, 0), values(0, 2)).equal(torch.ones(3, 2))
    assert torch.dot(values(0), values(0)).equal(torch.tensor(0.0))
    assert torch.mv(values(3, 0), values(0)).equal(torch.zeros(3))


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


def test_products_of_complex_numbers_are_numpys() -> None:
    for real in (torch.float32, torch.float64):
        a, b = (torch.complex(values(*s, dtype=real), 1 - values(*s, dtype=real)) for s in SHAPES)
        x, y = a.numpy(), b.numpy()
        assert np.array_equal((a @ b).numpy(), x @ y)
        assert np.array_equal((a @ a.mH).numpy(), x @ np.ascontiguousarray(x.conj().T))
        assert np.array_equal(torch.bmm(a[None], b[None])[0].numpy(), x @ y)
        added = torch.addmm(b[0], a, b, beta=2j, alpha=1 - 1j).numpy()
        assert np.allclose(added, 2j * y[0] + (1 - 1j) * (x @ y), atol=1e-5)
        assert np.allclose(torch.vdot(b[:, 0], b[:, 1]).numpy(), np.vdot(y[:, 0], y[:, 1]))
        assert np.allclose(torch.dot(b[:, 0], b[:, 1]).numpy(), (y[:, 0] * y[:, 1]).sum())
    assert torch.autograd.gradcheck(torch.mm, (a.requires_grad_(), b.requires_grad_()))
    assert torch.autograd.gradcheck(torch.vdot, (b[:, 0], b[:, 1]))


# --- Square roots ---


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


def test_bernoulli_draws_are_thresholded_uniforms() -> None:
    torch.manual_seed(5)
    drawn = torch.empty(1000).bernoulli_(0.3)
    torch.manual_seed(5)
    assert drawn.equal((torch.rand(1000) < 0.3).float())


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
    expected = kernels._fall_back(name, EDGES)  # MKL's
    torch.testing.assert_close(getattr(torch, name)(EDGES), expected, equal_nan=True)
    assert (
        getattr(EDGES.clone(), f"{name}_")().signbit().equal(getattr(torch, name)(EDGES).signbit())
    )
