"""The optimizer by its name in torch.optim."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch

from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.paths import PARAMS
from image_pipeline.modeling.options import check_name
from image_pipeline.training.params import TrainParams

# One asks for the loss several times a step, the other for sparse gradients.
UNUSABLE = {"Optimizer", "LBFGS", "SparseAdam"}


def optimizer_names() -> list[str]:
    """Return the classes of torch.optim that can be chosen."""
    return sorted(
        name
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and name not in UNUSABLE
    )


def build_optimizer(params: TrainParams, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """Make the optimizer of `train.optimizer`, fused where torch has it so.

    Args:
        params: of the training.
        groups: of weights, with their learning rates where they differ from `train.learning_rate`.

    Raises:
        ParamsError: there is no such optimizer, or it refuses its options or these weights.
    """
    name, options = params.optimizer.name, params.optimizer.options
    check_name(f"{PARAMS}: train.optimizer", name, optimizer_names())
    make = getattr(torch.optim, name)
    taken = set(inspect.signature(make).parameters) - {"params", "lr"}
    if unknown := sorted(set(options) - taken):
        hint = "; set train.learning_rate" if unknown[0] == "lr" else ""
        raise ParamsError(
            f"{PARAMS}: train.optimizer.{name}.{unknown[0]}: unknown option{hint}; {name} takes "
            f"{', '.join(sorted(taken))}"
        )
    # YAML knows no tuples, which torch asks for.
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in options.items()
    }
    if "fused" in taken and not given.keys() & {"foreach", "differentiable"}:
        given.setdefault("fused", True)
    if not given.get("differentiable"):
        make = without_compiler(make)
    try:
        optimizer: torch.optim.Optimizer = make(groups, lr=params.learning_rate, **given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ParamsError(
            f"{PARAMS}: train.optimizer.{name}: torch refuses it for this network: "
            f"{one_line(error)}"
        ) from None
    return optimizer


def without_compiler(optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return the same optimizer, less what torch wraps around its methods for torch.compile.

    The wrappers import the compiler, used or not: that takes longer than a first epoch.
    """
    bare = {
        name: inspect.unwrap(getattr(optimizer, name))
        for name in ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    }
    bare["step"] = torch.no_grad()(bare["step"])  # as the wrapper does
    return type(optimizer.__name__, (optimizer,), bare)
