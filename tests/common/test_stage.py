"""The shell around a stage is in place before anything that takes time is imported."""

import sys
from pathlib import Path

import pytest

from project import ROOT, run

SHOW = "import sys; before = set(sys.modules); {}; print(*set(sys.modules) - before)"


@pytest.mark.parametrize("stage", sorted(path.stem for path in (ROOT / "stages").glob("*.py")))
def test_a_stage_imports_next_to_nothing_before_it_answers_ctrl_c(stage: str) -> None:
    """What comes before the handler is a traceback's chance."""
    load = f"exec(open('stages/{stage}.py').read(), {{'__name__': 'imported'}})"
    path = f"sys.path.insert(0, {str(ROOT / 'src')!r}); {load}"
    done = run(sys.executable, "-I", "-S", "-c", SHOW.format(path), cwd=ROOT)
    loaded = set(done.stdout.split())
    assert "image_pipeline.common.stage" in loaded
    assert not loaded & {"argparse", "json", "pathlib", "tempfile", "time", "typing"}


def test_the_handler_is_set_first(tmp_path: Path) -> None:
    """Before arguments are parsed and the lock is waited for: Ctrl-C in `main` ends in one line."""
    script = tmp_path / "some_stage.py"
    script.write_text(
        "import os, signal\n"
        "from image_pipeline.common.stage import run_stage\n"
        "run_stage(lambda: os.kill(os.getpid(), signal.SIGINT), 'A stage.')\n"
    )
    done = run(sys.executable, script, check=False)
    assert done.returncode == 130
    assert done.stderr == "some_stage: error: interrupted; run `dvc repro` to go on\n"
