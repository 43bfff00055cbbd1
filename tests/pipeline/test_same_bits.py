"""The same bits everywhere: other settings, other core counts and other processors change nothing.

Every test compares the SHA-256 of every file that the pipeline writes, pictures included.
"""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from kill_harness import QUICK, Undisturbed

from project import OUTPUT_FOLDERS, Project, require

STAGES = ("download", "tensorize", "train", "evaluate", "plot", "export")
# Intel's oldest with AVX2; other ones, AMD's too, are in test_networks.py and numerics.
PROCESSOR = "Haswell"

# Trains and evaluates in one process, which saves an emulator the imports. Training is stopped when
# its first checkpoint is on the disk, and goes on from there. `image_pipeline.common.files` imports
# neither numpy nor torch, so the scripts' pin still comes first.
STOPPED_AND_RESUMED = """
import runpy, sys
from pathlib import Path
import image_pipeline.common.files as files

class Stop(BaseException):
    pass

write, stops = files.write_bytes, [Stop()]

def write_and_stop(path, content):
    write(path, content)
    if path.suffix == ".checkpoint" and stops:
        raise stops.pop()

files.write_bytes = write_and_stop
for stage in ("train", "train", "evaluate"):
    sys.argv = [f"stages/{stage}.py"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except Stop:
        assert not Path("models").exists()
"""

# What a processor of eight threads tells those who ask Python for their number.
EIGHT_PROCESSORS = """
import os
os.cpu_count = os.process_cpu_count = lambda: 8
os.sched_getaffinity = lambda pid: set(range(8))
"""

# A user's taste that would change every picture.
MATPLOTLIBRC = """
axes.facecolor: black
axes.titlesize: 30
figure.dpi: 40
figure.facecolor: red
font.family: serif
font.size: 22
image.cmap: hot
lines.linewidth: 9
path.sketch: 10, 10, 1
savefig.bbox: tight
savefig.dpi: 50
savefig.facecolor: green
savefig.transparent: True
text.antialiased: False
"""
DATA_REPORT = ("metrics/data.json", "plots/class_balance.csv", "plots/data.csv")  # of tensorize


@pytest.fixture(scope="module")
def finished(undisturbed: tuple[Project, Undisturbed]) -> Project:
    """Return a project whose stages have run here, one after the other, in peace."""
    project, _ = undisturbed
    return project


def test_a_copy_under_unlike_settings(
    finished: Project, make_project: Callable[..., Project], tmp_path: Path
) -> None:
    other = make_project("a much longer name/with spaces, in ASCII", QUICK)
    home = tmp_path / "home"
    _install_impostor_font(home / ".fonts")
    (home / "matplotlibrc").write_text(MATPLOTLIBRC)
    settings = {
        "HOME": str(home),
        "LC_ALL": "C",  # with the two lines below, ASCII: Python would make it UTF-8 by itself
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "TZ": "Pacific/Kiritimati",
        "PYTHONHASHSEED": "4242",
        "PYTHONWARNINGS": "default",
        "MATPLOTLIBRC": str(home / "matplotlibrc"),
        "MPLBACKEND": "TkAgg",
        "OMP_NUM_THREADS": "5",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # The user's own choice of kernels: the pin is stronger.
        "OPENBLAS_CORETYPE": "Prescott",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "SSE4_2",
    }
    done = other.run("sh", "-c", "umask 077 && dvc repro", env=settings)
    assert "could not take effect" not in done.stderr
    assert other.hashes() == finished.hashes()
    assert (other.root / "dvc.lock").read_bytes() == (finished.root / "dvc.lock").read_bytes()


def test_one_core_and_eight_claimed_threads(
    finished: Project, make_project: Callable[..., Project], tmp_path: Path
) -> None:
    require(shutil.which("taskset"), "taskset")
    narrow, wide = make_project("ünd", QUICK), make_project("wide", QUICK)
    _run_stages(narrow, STAGES, prefix=["taskset", "-c", "0"])
    assert narrow.hashes() == finished.hashes()

    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(EIGHT_PROCESSORS)
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    claims = dict.fromkeys(variables, "8")
    claims["PYTHONPATH"] = os.pathsep.join([str(wide.root / "src"), str(site)])
    counted = wide.run(sys.executable, "-c", "import os; print(os.cpu_count())", env=claims)
    assert counted.stdout.strip() == "8"
    _run_stages(wide, STAGES, env=claims)
    assert wide.hashes() == finished.hashes()


@pytest.mark.parametrize(
    "prefix", [(), ("qemu-x86_64", "-cpu", PROCESSOR)], ids=["here", PROCESSOR]
)
def test_a_stopped_and_resumed_run(
    prefix: tuple[str, ...], finished: Project, tmp_path: Path
) -> None:
    """Every stage that computes, here and on another processor; the one that copies is left out."""
    require(not prefix or shutil.which(prefix[0]), "qemu-x86_64")
    project = _copy_without_results(finished, tmp_path / "resumed")
    shutil.rmtree(project.root / "data" / "tensors")
    _run_stages(project, ("tensorize",), prefix)
    done = project.run(*prefix, sys.executable, "-c", STOPPED_AND_RESUMED, timeout=900)
    assert "train: going on after epoch 1 from checkpoints/" in done.stdout
    assert "WARNING" not in done.stderr
    _run_stages(project, ("plot", "export"), prefix)
    assert project.hashes() == finished.hashes()


def test_an_emulated_processor_lacks_avx_512() -> None:
    """Otherwise the test above would prove little: no library may fall back on wider kernels."""
    require(shutil.which("qemu-x86_64"), "qemu-x86_64")
    script = "import numpy; print(numpy.__config__.CONFIG['SIMD Extensions'])"
    done = subprocess.run(
        ["qemu-x86_64", "-cpu", PROCESSOR, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert ast.literal_eval(done.stdout)["found"] == ["X86_V3"]  # AVX2 and nothing beyond


def test_another_seed_gives_another_model(finished: Project, tmp_path: Path) -> None:
    """What is compared above does depend on what is computed."""
    project = _copy_without_results(finished, tmp_path / "seed")
    project.set_params({"train.seed": 1})
    _run_stages(project, ("train", "evaluate", "plot", "export"))
    same = {name for name, digest in project.hashes().items() if finished.hashes()[name] == digest}
    pictures = {f"plots/{name}.png" for name in ("class_balance", "samples", "training_sample")}
    of_the_data = {name for name in finished.hashes() if name.startswith("data/")}
    assert same == of_the_data | pictures | set(DATA_REPORT)


def _run_stages(
    project: Project,
    names: Sequence[str],
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> None:
    for name in names:
        done = project.stage(name, prefix=prefix, env=env, timeout=600)
        assert "WARNING" not in done.stderr


def _copy_without_results(project: Project, root: Path) -> Project:
    """Copy a project as it is after `tensorize`."""
    copy = Project(root, QUICK)
    shutil.copytree(project.root / "data", root / "data", dirs_exist_ok=True)
    for folder in OUTPUT_FOLDERS[1:]:
        shutil.rmtree(root / folder, ignore_errors=True)
    for name in DATA_REPORT:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(project.root / name, root / name)
    return copy


def _install_impostor_font(folder: Path) -> None:
    """Put another typeface into `folder` that says it is the one our pictures are set in."""
    import matplotlib as mpl
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

    folder.mkdir(parents=True)
    with TTFont(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif.ttf") as font:
        for record in font["name"].names:
            if record.nameID in (1, 4, 16):
                font["name"].setName(
                    "DejaVu Sans",
                    record.nameID,
                    record.platformID,
                    record.platEncID,
                    record.langID,
                )
        font.save(folder / "DejaVuSans.ttf")
