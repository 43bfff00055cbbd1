"""Other processors, emulated, compute the same bits.

CI has time for some (`processors.IN_CI`). With names in the environment's PROCESSORS it is all that
they can compute, or the PARTS of it that are named there, and what each has computed is written to
docs/processors.json, as `make test-processors` does.
"""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy
import processors
import proofs
import pytest
from custom_networks import project_with_networks
from processors import ARM, ARM_ENVIRONMENT, IN_CI, ON_X86_64, PARTS, X86_64, Computed, Plan

from image_pipeline.numerics.portability import OPERATIONS
from numerics import cases
from project import ROOT, SHARED_MNIST, TRAINED, Project, require, require_emulator, run

PLANS = IN_CI
RECORDED = os.environ.get("PROCESSORS", "").split()
if RECORDED:
    parts = os.environ.get("PARTS", "").split() or PARTS
    PLANS = {name: processors.whole_plan(name, parts) for name in RECORDED}
MNIST_RUN = os.environ.get("MNIST_RUN", "")
MIRROR = {"DATASET_MIRROR": str(SHARED_MNIST)} if SHARED_MNIST.is_dir() else {}
if "DATASET_MIRROR" in os.environ:
    MIRROR = {}  # it is inherited
EIGHT_PROCESSORS = """
import os
os.cpu_count = os.process_cpu_count = lambda: 8
os.sched_getaffinity = lambda pid: set(range(8))
"""
ENVIRONMENT = "ARM_ENVIRONMENT (see .ci/arm_environment)"


def planned(part: str, among: Iterable[str] = processors.DESCRIPTIONS) -> list[str]:
    return [name for name, plan in PLANS.items() if name in among and getattr(plan, part)]


def for_each(part: str, among: Iterable[str] = processors.DESCRIPTIONS) -> pytest.MarkDecorator:
    """Run a test for each of these; with this scope, all tests of one before those of the next."""
    return pytest.mark.parametrize("processor", planned(part, among), scope="module")


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return project_with_networks(tmp_path_factory.mktemp("networks") / "project")


@pytest.fixture(scope="module")
def on_one_core(tensors: Project, tmp_path_factory: pytest.TempPathFactory) -> Computed:
    """Return what one core of this machine computes."""
    require(shutil.which("taskset"), "taskset")
    folder, python = tmp_path_factory.mktemp("narrow"), ("taskset", "-c", "0", sys.executable)
    asked = {name for plan in PLANS.values() for name in plan.networks}
    operations = bool(planned("operations"))
    names = tuple(name for name in ON_X86_64 if name in asked)
    return processors.compute(folder, tensors, Plan(names, operations=operations), python=python)


Emulated = Mapping[str, Future[Computed]]


@pytest.fixture(scope="module")
def emulated(
    tensors: Project, finished: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Emulated]:
    """Let each emulated processor compute, two at a time."""
    require_emulator()
    chosen = [name for name in PLANS if name not in ARM or ARM_ENVIRONMENT.is_dir()]
    mnist = None
    if planned("mnist"):
        mnist = processors.mnist_data(tmp_path_factory.mktemp("mnist") / "clone", MIRROR)

    def on(processor: str) -> Computed:
        python, site = processors.python_of(processor)
        return processors.compute(
            tmp_path_factory.mktemp(processor),
            tensors,
            PLANS[processor],
            python=python,
            site=site,
            finished=finished,
            mnist=mnist,
        )

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(on, name) for name in chosen}


def record(processor: str, part: str, found: proofs.Part, expected: proofs.Part) -> None:
    """Write down what a processor has computed, if it was to compute all that it can."""
    if RECORDED:
        version = run("qemu-x86_64", "--version").stdout.split()[2]
        native = " ".join(numpy.__config__.CONFIG["SIMD Extensions"]["found"])
        proofs.record(processor, part, found, expected, f"QEMU {version}", native)


@for_each("networks")
def test_another_processor_trains_the_same_networks(
    processor: str, emulated: Emulated, on_one_core: Computed
) -> None:
    require(processor in emulated, ENVIRONMENT)
    expected = {name: on_one_core.networks[name] for name in PLANS[processor].networks}
    found = emulated[processor].result().networks
    record(processor, "networks", proofs.of_networks(found), proofs.of_networks(expected))
    assert found == expected


@for_each("digits")
def test_another_processor_goes_through_all_stages_resumed_and_by_two_processes(
    processor: str, finished: Project, emulated: Emulated
) -> None:
    """It resumes what was stopped natively, and the reverse.

    All stages that compute: the one that copies is left out.
    """
    require(processor in emulated, ENVIRONMENT)
    training = processors.trained(finished)
    expected = {
        "all stages": finished.hashes(),
        "two processes": training,
        "ended natively": training,
    }
    found = emulated[processor].result().digits
    record(processor, "digits", proofs.of_runs(found), proofs.of_runs(expected))
    assert found == expected


@for_each("operations", X86_64)
def test_another_processor_computes_the_same_bits(
    processor: str, emulated: Emulated, on_one_core: Computed
) -> None:
    lines, others = on_one_core.operations, emulated[processor].result().operations
    different = cases.differences(lines, others)
    apart = {line.split()[0] for line in different}
    every = cases.same_on(lines, lines)
    same = {name: types for name, types in every.items() if name not in apart}
    counts = [proofs.of_operations(cases.to_list(lines, names)) for names in (same, every)]
    record(processor, "operations", *counts)
    assert different == []


@for_each("operations", ARM)
def test_arm_computes_the_same_bits_where_the_list_says_so(
    processor: str, emulated: Emulated, on_one_core: Computed
) -> None:
    require(processor in emulated, ENVIRONMENT)
    lines = on_one_core.operations
    same = cases.same_on(lines, emulated[processor].result().operations)
    every = cases.to_list(lines, cases.same_on(lines, lines))
    found = cases.to_list(lines, same)
    record(processor, "operations", proofs.of_operations(found), proofs.of_operations(every))
    assert OPERATIONS.read_text(encoding="utf-8") == found


@for_each("samples")
def test_kernels_agree_with_another_processors_own_on_pytorchs_samples(
    processor: str, emulated: Emulated
) -> None:
    """Natively: numerics/test_kernels.py."""
    require(processor in emulated, ENVIRONMENT)
    found = emulated[processor].result().samples
    assert len(found) > 10
    passed = [name for name, difference in found.items() if not difference]
    record(processor, "samples", {"operations": len(passed)}, {"operations": len(found)})
    assert {name: difference for name, difference in found.items() if difference} == {}


if planned("mnist"):

    @for_each("mnist")
    def test_the_first_epoch_of_mnist(processor: str, emulated: Emulated) -> None:
        """The rest of the run is computed natively from there, and is the committed one."""
        require(processor in emulated, ENVIRONMENT)
        expected = proofs.committed_mnist()
        computed = emulated[processor].result()
        [epoch] = computed.receipt["epochs"]
        found = {"first epoch": epoch.split()[-1], "ended natively": computed.mnist}
        record(processor, "mnist", found, expected)
        assert found == {name: expected[name] for name in found}
        assert {*computed.mnist} == {*TRAINED}
        assert computed.receipt["first_step"] == proofs.receipt(ROOT)["first_step"]


if MNIST_RUN:

    def test_a_whole_run_of_mnist() -> None:
        """In the folder MNIST_RUN; it goes on where it was stopped."""
        require_emulator()
        [processor], root = RECORDED, Path(MNIST_RUN)
        processors.run_all_stages(root, processor, MIRROR)
        expected = proofs.committed_mnist()
        found = {
            "last epoch": proofs.receipt(root)["epochs"][-1].split()[-1],
            "files": {name: processors.md5(root / name) for name in expected["files"]},
        }
        record(processor, "mnist", found, expected)
        assert found == {name: expected[name] for name in found}


def test_eight_claimed_cores_change_no_bit(
    on_one_core: Computed, tensors: Project, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(EIGHT_PROCESSORS)
    plan = Plan(tuple(on_one_core.networks))
    found = processors.compute(tmp_path, tensors, plan, site=str(site))
    assert found.networks == on_one_core.networks


def test_an_emulated_processor_lacks_avx_512() -> None:
    """Otherwise these tests would prove little: no library may fall back on wider kernels."""
    require_emulator()
    script = "import numpy; print(numpy.__config__.CONFIG['SIMD Extensions'])"
    for processor in X86_64:
        done = subprocess.run(
            ["qemu-x86_64", "-cpu", processor, sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        assert ast.literal_eval(done.stdout)["found"] == ["X86_V3"]  # AVX2 and nothing beyond
