"""What the check of a step tells of operations that are not on the list."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as layers
from torch.optim import optimizer as optimizers

from image_pipeline.numerics import portability
from image_pipeline.numerics.portability import PortabilityCheck

WORDS = (
    "is not on the list of those whose bits are the same on every processor "
    "(src/image_pipeline/numerics/operations.csv): the model counts as not portable."
)


class Logit(nn.Module):
    """Computes with an operation that is not on the list, and neither is its derivative."""

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
    assert check.unproved == {}
    assert check.warnings() == []


def test_an_unproved_operation_and_its_derivative_are_named_with_their_layer() -> None:
    with PortabilityCheck() as check:
        step(Network(Logit()))
    assert set(check.unproved) == {
        "aten.logit.default",
        "aten.logit_backward.default",
    }
    assert set(check.unproved.values()) == {"blocks.2"}
    assert check.warnings()[0] == (
        "WARNING: the operation aten.logit.default in the layer `blocks.2` " + WORDS
    )


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Take an operation off the list."""

    def take_off(name: str) -> None:
        proofs = portability.read_operations()
        del proofs[name]
        monkeypatch.setattr(portability, "read_operations", lambda: proofs)

    return take_off


@pytest.mark.parametrize(
    ("operation", "where", "in_words"),
    [
        ("aten.addmm.default", "blocks.0", "in the layer `blocks.0` "),
        ("aten.mm.default", "head", "in the layer `head` "),  # the way back begins at the end
        ("aten.nll_loss_forward.default", "the loss", "in the loss "),
        ("aten.nll_loss_backward.default", "the loss", "in the loss "),
        ("aten.addcdiv_.default", "the optimizer", "in the optimizer "),
        ("aten.rand.default", "", ""),
    ],
)
def test_every_part_of_a_step_is_watched(
    emptied: Callable[[str], None], operation: str, where: str, in_words: str
) -> None:
    emptied(operation)
    with PortabilityCheck() as check:
        step(Network(nn.ReLU()))
    assert check.unproved == {operation: where}
    assert check.warnings() == [f"WARNING: the operation {operation} {in_words}{WORDS}"]


def test_a_network_without_layers_is_named_by_its_class(emptied: Callable[[str], None]) -> None:
    emptied("aten.relu.default")
    with PortabilityCheck() as check:
        nn.ReLU()(torch.ones(3))
    assert check.unproved == {"aten.relu.default": "ReLU"}


def test_other_types_of_floats_were_not_proved() -> None:
    with PortabilityCheck() as check:
        nn.Linear(3, 2).to(torch.bfloat16)(torch.ones(1, 3, dtype=torch.bfloat16))
    assert check.unproved == {"aten.addmm.default (bfloat16)": "Linear"}


def test_what_is_made_of_others_is_taken_apart() -> None:
    """As it comes without autograd: `linear` and `batch_norm` are not on the list."""
    with PortabilityCheck() as check, torch.inference_mode():
        Network(Logit()).eval()(torch.rand(8, 4))
    assert check.unproved == {"aten.logit.default": "blocks.2"}


def test_the_step_computes_as_it_would_have() -> None:
    plain = Network(nn.Sequential(nn.Dropout(0.3), nn.GELU()))
    watched = copy.deepcopy(plain)
    step(plain)
    with PortabilityCheck():
        step(watched)
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert one.equal(other)
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.equal(other.grad)


class Unusual(nn.Module):
    """Takes and gives what layers may: named arguments, None, lists, dictionaries, views."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"a": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})

    def forward(self, *, images: Tensor, mask: Tensor | None = None) -> dict[str, object]:
        halves = torch.split(self.inner["a"](images).relu_(), 2, dim=1)
        return {"logits": torch.cat(halves, 1), "none": mask, "views": [half[0] for half in halves]}


def test_unusual_layers() -> None:
    network = Unusual()
    with PortabilityCheck() as check:
        given = network(images=torch.rand(3, 4))
        (given["logits"].sum() + given["views"][0].sum()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    assert check.unproved == {}
    assert given["none"] is None
    assert network.inner["unused"].weight.grad is None


def test_nothing_is_left_behind() -> None:
    class Fails(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise ValueError("it failed")

    check = PortabilityCheck()
    with pytest.raises(ValueError, match="it failed"), check:
        Network(Fails())(torch.rand(8, 4))
    step(Network(Logit()))
    assert check.unproved == {}
    assert not layers._global_forward_hooks
    assert not layers._global_forward_pre_hooks
    assert not optimizers._global_optimizer_pre_hooks
    assert not optimizers._global_optimizer_post_hooks
