"""Private members of other libraries: where they may be used, and whether they are still there."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

from image_pipeline.numerics import torch_private
from project import ROOT

PACKAGE = ROOT / "src" / "image_pipeline"
MODULES = {
    "common/tqdm_private.py",
    "distributed/elastic_private.py",
    "experiments/dvc_private.py",
    "numerics/torch_private.py",
}
# Public in spite of their names: `os` and named tuples document them.
PUBLIC = {"_exit", "_asdict", "_replace", "_fields"}
OWN = {"self", "cls", "super()"}


def private_members(source: str) -> list[str]:
    """Return what a module uses of others that has one leading underscore."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in OWN:
            names = [node.attr]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        private = [n for n in names if n.startswith("_") and not n.endswith("__")]
        if set(private) - PUBLIC:
            found.append(ast.unparse(node))
    return found


def test_private_members_are_found() -> None:
    for line in ("from a._b import c", "import a._b", "from a import _b", "a.b._c(d)", "a()._b"):
        assert private_members(line), line
    for line in ("self._a", "os._exit(0)", "from __future__ import annotations", "a.__class__"):
        assert not private_members(line), line


def test_private_members_are_in_one_module_per_library() -> None:
    used = {}
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "stages").glob("*.py")):
        name = path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix()
        if name not in MODULES and (found := private_members(path.read_text(encoding="utf-8"))):
            used[name] = found
    used.pop("distributed/connection.py")  # its own class's
    assert used == {}


def missing(library: str, module: Path | str, what: object) -> str:
    return f"{library} has no {what} any more: src/image_pipeline/{module} needs another way"


def test_pytorch_still_has_them() -> None:
    module = "numerics/torch_private.py"  # whose import has succeeded: the classes are there
    add = torch.ops.aten.add.Tensor
    said = missing("PyTorch", module, "torch._C._dispatch_has_kernel_for_dispatch_key")
    assert torch_private.has_kernel(torch.ops.aten.mm.default, "CPU"), said
    assert not torch_private.has_kernel(add, "CompositeImplicitAutograd"), said
    assert torch_private.has_kernel(torch.ops.aten.linear.default, "CompositeImplicitAutograd")
    assert isinstance(add, torch_private.OpOverload), missing("PyTorch", module, "OpOverload")
    assert torch_private.tree_leaves(([1], {"a": 2})) == [1, 2]

    first = torch_private.next_autograd_node()
    seen = []
    weights = torch.ones(2, requires_grad=True)
    doubled = weights * 2
    doubled.register_hook(lambda _: seen.append(torch_private.running_autograd_node()))
    assert torch_private.next_autograd_node() == first + 1, missing("PyTorch", module, "numbering")
    assert torch_private.running_autograd_node() is None
    doubled.sum().backward()
    assert seen == [first], missing("PyTorch", module, "torch._C._current_autograd_node")

    state = nn.Sequential(nn.BatchNorm1d(2)).state_dict()
    said = missing("PyTorch", module, "versions in state dicts")
    assert torch_private.layer_versions(state)["0"] == {"version": 2}, said
    torch_private.set_layer_versions(state, {"": {"version": 1}})
    assert torch_private.layer_versions(state) == {"": {"version": 1}}, said

    kernel = torch.library.get_kernel("aten::mm", "CPU").call_boxed
    product = kernel(torch_private.CPU, torch.ones(1, 2), torch.ones(2, 1))
    assert product.item() == 2, missing("PyTorch", module, "torch._C.DispatchKeySet")
    with torch_private.quiet_onnx_exporter():
        pass


def test_pytorchs_elastic_agent_still_has_them() -> None:
    from torch.distributed.elastic.agent.server.api import SimpleElasticAgent
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler

    for owner, names in (
        (DynamicRendezvousHandler, ("self._state_holder", "self._store", ".participants")),
        (SimpleElasticAgent, ("self._remaining_restarts > 0", "self._monitor_workers(")),
    ):
        source = inspect.getsource(owner)
        for name in names:
            said = missing("PyTorch's elastic agent", "distributed/elastic_private.py", name)
            assert name in source, said


def test_dvc_still_has_them() -> None:
    from dvc.repo.experiments.executor import local  # type: ignore[import-untyped]
    from dvc.repo.experiments.queue.celery import (  # type: ignore[import-untyped]
        LocalCeleryQueue,
    )

    module = "experiments/dvc_private.py"
    for name in ("_mark_inactive_tasks_failure", "proc", "iter_active", "get_infofile_path"):
        assert hasattr(LocalCeleryQueue, name), missing("DVC", module, name)
    assert hasattr(local, "ConfigObj"), missing("DVC", "experiments/queue_worker.py", "ConfigObj")


def test_tqdm_still_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    from tqdm import tqdm

    from image_pipeline.common.tqdm_private import open_bars

    before = open_bars()
    with tqdm(total=1):
        said = missing("tqdm", "common/tqdm_private.py", "tqdm._instances")
        assert open_bars() == before + 1, said
    assert open_bars() == before
    capsys.readouterr()
