"""What the portability check of a step reports about operations that are not verified."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as layers
from torch.optim import optimizer as optimizers

from image_pipeline.numerics import portability
from image_pipeline.numerics.portability import PortabilityCheck

WARNING = (
    "is not verified to give the same bits on every processor "
    "(src/image_pipeline/numerics/operations.csv): the model is not portable."
)


class Logit(nn.Module):
    """Uses an operation that is not verified; nor is its derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(x.sigmoid())


class Network(nn.Module):
    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), odd)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(x))
        return logits


def step(network: nn.Module) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters())
    images, labels = torch.rand(8, 4), torch.arange(8) % 3
    nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()


def test_a_usual_step_is_portable() -> None:
    with PortabilityCheck() as check:
        step(Network(nn.GELU()))
    assert check.unverified_ops == {}
    assert check.warnings() == []


class Warp(nn.Module):
    """A spatial transformer that shifts by its first values."""

    def forward(self, x: Tensor) -> Tensor:
        theta = torch.eye(2, 3).expand(len(x), 2, 3) + x[:, :1, None]
        grid = nn.functional.affine_grid(theta, [len(x), 1, 2, 2], align_corners=False)
        warped = nn.functional.grid_sample(x.view(-1, 1, 2, 2), grid, align_corners=False)
        return warped.flatten(1)


class Rows(nn.Module):
    """Two layers in both directions, with dropout between them, on a sequence of two values."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.layers = kind(2, 1, 2, batch_first=True, dropout=0.5, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        read: Tensor = self.layers(x.view(-1, 2, 2))[0]
        return read.flatten(1)


class Spectrum(nn.Module):
    """A filter of the spectrum, whose complex weights are pairs; magnitudes and angles."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        filtered = torch.fft.rfft(x) * torch.view_as_complex(self.weight)
        both = torch.fft.fft(x)
        features = both.abs() + both.angle() + torch.view_as_real(both).sum(2)
        logits: Tensor = torch.fft.irfft(filtered, n=4) + features
        return logits


@pytest.mark.parametrize(
    "odd", [Warp(), Rows(nn.LSTM), Rows(nn.GRU), Spectrum()], ids=["warp", "LSTM", "GRU", "Fourier"]
)
def test_common_networks_are_portable(odd: nn.Module) -> None:
    before = torch.backends.mkldnn.set_flags(False)  # as the pin does, which is not here
    try:
        with PortabilityCheck() as check:
            step(Network(odd))
    finally:
        torch.backends.mkldnn.set_flags(before[0])
    assert check.unverified_ops == {}


def test_an_unverified_operation_and_its_derivative_are_named_with_their_layer() -> None:
    with PortabilityCheck() as check:
        step(Network(Logit()))
    assert set(check.unverified_ops) == {
        "aten.logit.default",
        "aten.logit_backward.default",
    }
    assert set(check.unverified_ops.values()) == {"blocks.2"}
    assert check.warnings()[0] == (
        "WARNING: the operation aten.logit.default in the layer `blocks.2` " + WARNING
    )


@pytest.fixture
def without_op(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that takes an operation off the list of verified ones."""

    def remove(name: str) -> None:
        verified = portability.read_verified_ops()
        del verified[name]
        monkeypatch.setattr(portability, "read_verified_ops", lambda: verified)

    return remove


@pytest.mark.parametrize(
    ("operation", "scope", "in_scope"),
    [
        ("aten.addmm.default", "blocks.0", "in the layer `blocks.0` "),
        ("aten.mm.default", "head", "in the layer `head` "),  # the backward pass begins at the end
        ("aten.nll_loss_forward.default", "the loss", "in the loss "),
        ("aten.nll_loss_backward.default", "the loss", "in the loss "),
        ("aten.addcdiv_.default", "the optimizer", "in the optimizer "),
        ("aten.rand.default", "", ""),
    ],
)
def test_every_part_of_a_step_is_checked(
    without_op: Callable[[str], None], operation: str, scope: str, in_scope: str
) -> None:
    without_op(operation)
    with PortabilityCheck() as check:
        step(Network(nn.ReLU()))
    assert check.unverified_ops == {operation: scope}
    assert check.warnings() == [f"WARNING: the operation {operation} {in_scope}{WARNING}"]


def test_a_network_without_layers_is_named_by_its_class(without_op: Callable[[str], None]) -> None:
    without_op("aten.relu.default")
    with PortabilityCheck() as check:
        nn.ReLU()(torch.ones(3))
    assert check.unverified_ops == {"aten.relu.default": "ReLU"}


def test_an_operation_is_verified_for_its_dtypes_only() -> None:
    with PortabilityCheck() as check:
        nn.Linear(3, 2).to(torch.bfloat16)(torch.ones(1, 3, dtype=torch.bfloat16))
    assert check.unverified_ops == {"aten.addmm.default (bfloat16)": "Linear"}


def test_composite_operations_are_decomposed() -> None:
    """They arrive whole without autograd: `linear` and `batch_norm` are not in the list."""
    with PortabilityCheck() as check, torch.inference_mode():
        Network(Logit()).eval()(torch.rand(8, 4))
    assert check.unverified_ops == {"aten.logit.default": "blocks.2"}


def test_the_check_changes_no_result() -> None:
    plain = Network(nn.Sequential(nn.Dropout(0.3), nn.GELU()))
    checked = copy.deepcopy(plain)
    step(plain)
    with PortabilityCheck():
        step(checked)
    for one, other in zip(plain.parameters(), checked.parameters(), strict=True):
        assert one.equal(other)
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.equal(other.grad)


class Unusual(nn.Module):
    """Takes and returns what layers may: keyword arguments, None, lists, dictionaries, views."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"a": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})

    def forward(self, *, images: Tensor, mask: Tensor | None = None) -> dict[str, object]:
        halves = torch.split(self.inner["a"](images).relu_(), 2, dim=1)
        return {"logits": torch.cat(halves, 1), "none": mask, "views": [half[0] for half in halves]}


def test_unusual_layers() -> None:
    network = Unusual()
    with PortabilityCheck() as check:
        outputs = network(images=torch.rand(3, 4))
        (outputs["logits"].sum() + outputs["views"][0].sum()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    assert check.unverified_ops == {}
    assert outputs["none"] is None
    assert network.inner["unused"].weight.grad is None


def test_no_hooks_are_left_behind() -> None:
    class Fails(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise ValueError("it failed")

    check = PortabilityCheck()
    with pytest.raises(ValueError, match="it failed"), check:
        Network(Fails())(torch.rand(8, 4))
    step(Network(Logit()))
    assert check.unverified_ops == {}
    assert not layers._global_forward_hooks
    assert not layers._global_forward_pre_hooks
    assert not optimizers._global_optimizer_pre_hooks
    assert not optimizers._global_optimizer_post_hooks
