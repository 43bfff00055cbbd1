"""The same bits everywhere: other settings and core counts change nothing.

Other processors are in test_processors.py.
Every test compares the SHA-256 of every file that the pipeline writes, pictures included.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

from project import Project, require

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
savefig.dpi: 70
savefig.facecolor: green
savefig.transparent: True
text.antialiased: False
"""


def install_impostor_font(folder: Path) -> None:
    """Put another typeface into `folder` that says it is the one our pictures are set in."""
    folder.mkdir(parents=True)
    with TTFont(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif.ttf") as font:
        names = font["name"]
        for of in [record for record in names.names if record.nameID in (1, 4, 16)]:
            names.setName("DejaVu Sans", of.nameID, of.platformID, of.platEncID, of.langID)
        font.save(folder / "DejaVuSans.ttf")


def test_a_copy_under_unlike_settings_on_one_core(
    finished: Project, make_project: Callable[..., Project], tmp_path: Path
) -> None:
    require(shutil.which("taskset"), "taskset")
    other = make_project("a much longer name/with spaces, in ASCII")
    home = tmp_path / "home"
    install_impostor_font(home / ".fonts")
    (home / "matplotlibrc").write_text(MATPLOTLIBRC)
    settings = {
        "HOME": str(home),
        # With the two lines below, ASCII. From a folder with other letters Python cannot start so:
        # it reads the environment's .pth files, which hold its path, in the locale's encoding.
        "LC_ALL": "C" if sys.prefix.isascii() else "C.UTF-8",
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
    done = other.run("taskset", "-c", "0", "sh", "-c", "umask 077 && dvc repro", env=settings)
    assert "could not take effect" not in done.stderr
    assert other.hashes() == finished.hashes()
    assert (other.root / "dvc.lock").read_bytes() == (finished.root / "dvc.lock").read_bytes()


def test_eight_claimed_threads(finished: Project, tmp_path: Path) -> None:
    wide = finished.copy_without_results(tmp_path / "ünd")
    shutil.rmtree(wide.root / "data" / "tensors")
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    claims = dict.fromkeys(variables, "8") | wide.claiming(8, tmp_path / "site")
    counted = wide.run(sys.executable, "-c", "import os; print(os.cpu_count())", env=claims)
    assert counted.stdout.strip() == "8"
    for stage in ("tensorize", "train", "evaluate", "plot", "export"):
        assert "WARNING" not in wide.stage(stage, env=claims).stderr
    assert wide.hashes() == finished.hashes()
