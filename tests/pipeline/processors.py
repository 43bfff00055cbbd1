"""Emulated processors, and what each of them computes."""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from custom_networks import NOT_IN_ONNX, STOPPED_TRAINING, params_of
from ruamel.yaml import YAML

from image_pipeline.training.checkpoint import DIGEST_BYTES
from project import ROOT, TRAINED, Project, run

SCRIPT = Path(__file__).with_name("on_one_processor.py")
ARM_ENVIRONMENT = Path(os.environ.get("ARM_ENVIRONMENT", "/absent"))  # see .ci/arm_environment
ARM = {
    "cortex-a57": "ARM Cortex-A57 (2012)",
    "neoverse-n1": "ARM Neoverse N1 (2019: Graviton 2, Ampere)",
    "neoverse-n2": "ARM Neoverse N2 (2020), with SVE2",
    "neoverse-v1": "ARM Neoverse V1 (2020: Graviton 3), with SVE",
}
X86_64 = {
    "EPYC-Milan": "AMD EPYC (2021), with AVX2",
    "Haswell": "Intel Haswell (2013), with AVX2",
}
DESCRIPTIONS = X86_64 | ARM
ON_ARM = ("hybrid", "cnn", "resnet", "efficientnet_lite0", "recurrent")
ON_X86_64 = (*ON_ARM, "torchvision_net", "transformed")  # these resize and have spectra

Hashes = dict[str, str]  # of outputs, by their paths


@dataclass(frozen=True)
class Plan:
    """What a processor is to compute.

    Attributes:
        networks: to train for three steps.
        digits: all stages on digits, resumed and to be resumed elsewhere, and by two processes.
        operations: all cases of numerics/cases.py.
        samples: PyTorch's own (`samples` or `few-samples`).
        mnist: the first epoch of the committed run, to be ended natively.
    """

    networks: tuple[str, ...] = ()
    digits: bool = False
    operations: bool = False
    samples: str = ""
    mnist: bool = False


# What CI has time for. The networks of the two x86-64 processors are all there are; both load the
# same kernels (AVX2), so one computes all operations.
IN_CI = {
    "EPYC-Milan": Plan(("hybrid", "recurrent", "resnet", "efficientnet_lite0")),
    "Haswell": Plan(
        ("hybrid", "cnn", "torchvision_net", "transformed"), digits=True, operations=True
    ),
    "neoverse-n1": Plan(
        ("hybrid", "cnn", "resnet", "efficientnet_lite0"),
        digits=True,
        operations=True,
        samples="few-samples",
    ),
    "neoverse-v1": Plan(("hybrid",)),
}
PARTS = ("networks", "digits", "mnist", "operations", "samples")


def whole_plan(processor: str, parts: Sequence[str]) -> Plan:
    """Return all that a processor can compute, of some of the parts."""
    arm = processor in ARM
    whole = Plan(
        ON_ARM if arm else ON_X86_64, digits=True, operations=True, samples="samples", mnist=True
    )
    nothing = {name: getattr(Plan(), name) for name in PARTS if name not in parts}
    return replace(whole, **nothing)


@dataclass(frozen=True)
class Computed:
    """What one process has computed.

    Attributes:
        networks: the outputs of each.
        digits: the outputs of runs: `all stages`, `two processes`, `ended natively`.
        operations: lines, as numerics/cases.py has them.
        samples: of each operation that was compared with PyTorch's own, how it differs.
        receipt: of the committed run, up to the first epoch.
        mnist: MD5s of what training wrote that went on from there natively.
    """

    networks: dict[str, Hashes] = field(default_factory=dict)
    digits: dict[str, Hashes] = field(default_factory=dict)
    operations: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, str] = field(default_factory=dict)
    receipt: dict[str, list[str]] = field(default_factory=dict)
    mnist: Hashes = field(default_factory=dict)


def python_of(processor: str) -> tuple[list[str], str]:
    """Return the command of a Python on an emulated processor, and where its libraries are."""
    if processor in ARM:
        root = ARM_ENVIRONMENT / "root"
        emulator = ["qemu-aarch64", "-L", str(root), "-cpu", processor]
        return [*emulator, str(root / "usr/bin/python3.11")], str(ARM_ENVIRONMENT / "site")
    return ["qemu-x86_64", "-cpu", processor, sys.executable], ""


def compute(
    folder: Path,
    tensors: Project,
    plan: Plan,
    *,
    python: Sequence[str] = (sys.executable,),
    site: str = "",
    finished: Project | None = None,
    mnist: Project | None = None,
) -> Computed:
    """Compute what is planned in one process.

    Args:
        folder: a new one, for copies of the projects.
        tensors: a project that has the networks.
        plan: what to compute.
        python: the command.
        site: where its libraries are, if they are not its own.
        finished: a project after a whole run, for the plan's `digits`.
        mnist: one with the data of the committed run, for the plan's `mnist`.
    """
    asked: list[str] = []
    digits = mnist_copy = None
    if plan.digits:
        assert finished
        digits = [finished.copy_without_results(folder / name) for name in ("resumed", "by-two")]
        stop_training(digits[0])
        asked += ["resumed", str(digits[0].root), "by-two", str(digits[1].root)]
    if plan.mnist:
        assert mnist
        mnist_copy = mnist.copy_to(folder / "mnist")
        asked += ["first-epoch", str(mnist_copy.root)]
    if digits:
        asked += ["rest", str(digits[0].root)]
    projects = {name: tensors.copy_to(folder / name) for name in plan.networks}
    for name, project in projects.items():
        project.set_params(params_of(name))
        asked += ["network", str(project.root)]
    lines, compared = folder / "operations", folder / "samples"
    lines.write_text(""), compared.write_text("{}")
    if plan.operations:
        asked += ["operations", str(lines)]
    if plan.samples:
        asked += [plan.samples, str(compared)]
    env = {"PYTHONPATH": os.pathsep.join(filter(None, (str(tensors.root / "src"), site)))}
    done = tensors.run(*python, str(SCRIPT), *asked, env=env, timeout=10_000)
    assert "WARNING" not in done.stderr
    runs = {}
    if digits:
        assert done.stdout.count("train: going on after epoch 1 from checkpoints/") == 1
        runs["all stages"] = digits[0].hashes()
        runs["two processes"] = trained(digits[1])
        runs["ended natively"] = end_natively(digits[1], digits[1].root / "first")
    return Computed(
        {name: outputs_of_network(name, project) for name, project in projects.items()},
        runs,
        [json.loads(line) for line in lines.read_text().splitlines()],
        json.loads(compared.read_text()),
        *(end_first_epoch(mnist_copy) if mnist_copy else ({}, {})),
    )


def outputs_of_network(name: str, project: Project) -> Hashes:
    metrics = json.loads((project.root / "metrics/train.json").read_text())
    assert metrics["portable"] is True
    assert metrics["portable_to_arm"] == (name in ON_ARM)
    exported = (project.root / "models/model.onnx").read_bytes()
    assert exported.startswith(b"src/image_pipeline") == (name in NOT_IN_ONNX)
    return {path: digest for path, digest in project.hashes().items() if "data/" not in path}


def trained(project: Project) -> Hashes:
    """Return the hashes of what training writes."""
    hashes = project.hashes()
    return {path: hashes[path] for path in TRAINED}


def stop_training(project: Project) -> None:
    """Train natively until the first checkpoint is on the disk."""
    stopped = project.run(sys.executable, "-c", STOPPED_TRAINING, check=False)
    assert stopped.returncode == 1
    assert [*(project.root / "checkpoints").glob("*.checkpoint")]
    assert not (project.root / "models").exists()


def end_natively(project: Project, checkpoints: Path) -> Hashes:
    """Resume from a checkpoint after the first epoch; return the hashes of what training writes."""
    for path in TRAINED:
        (project.root / path).unlink(missing_ok=True)
    [first] = checkpoints.glob("*.checkpoint")
    target = project.root / "checkpoints" / first.name
    target.parent.mkdir(exist_ok=True)
    if first != target:
        shutil.copy(first, target)
    ended = project.stage("train", timeout=1800)
    assert "train: going on after epoch 1 from checkpoints/" in ended.stdout
    return trained(project)


def end_first_epoch(project: Project) -> tuple[dict[str, list[str]], Hashes]:
    """Return the receipt in a checkpoint, and the MD5s of what training writes from there."""
    import torch

    [path] = (project.root / "checkpoints").glob("*.checkpoint")
    content = io.BytesIO(path.read_bytes()[DIGEST_BYTES:])
    receipt = torch.load(content, weights_only=True)["state"]["receipt"]
    end_natively(project, project.root / "checkpoints")
    return receipt, {path: md5(project.root / path) for path in TRAINED}


def mnist_data(root: Path, mirror: Mapping[str, str]) -> Project:
    """Return a clone of what is committed with its data and without its results."""
    run("git", "clone", "--quiet", str(ROOT), str(root))
    project = Project.at(root)
    for name in ("metrics", "plots"):
        shutil.rmtree(root / name)
    for stage in ("download", "tensorize", "weights"):
        project.stage(stage, env=mirror)
    return project


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def run_all_stages(root: Path, processor: str, mirror: Mapping[str, str]) -> None:
    """Run the stages of a clone of what is committed whose outputs are not there yet."""
    if not root.exists():
        run("git", "clone", "--quiet", str(ROOT), str(root))
        for name in ("metrics", "plots"):
            shutil.rmtree(root / name)
    project = Project.at(root)
    python, site = python_of(processor)
    env = {**mirror, "PYTHONPATH": os.pathsep.join(filter(None, (str(root / "src"), site)))}
    stages = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        outputs = [*stage.get("outs", ()), *stage.get("metrics", ()), *stage.get("plots", ())]
        paths = [next(iter(out)) if isinstance(out, dict) else out for out in outputs]
        if not all((root / path).exists() for path in paths):
            project.run(*python, f"stages/{name}.py", env=env, timeout=20_000)
