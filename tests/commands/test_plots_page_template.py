"""Writing the template; tests/browser/test_plots_page.py checks the page it makes."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from image_pipeline.commands import plots_page
from project import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: an empty DVC project, in a folder of any name."""
    folder = tmp_path / "a b ü"
    folder.mkdir()
    monkeypatch.chdir(folder)
    subprocess.run(["dvc", "init", "--quiet", "--no-scm"], check=True)
    return folder


def test_the_template_contains_the_scripts_and_is_configured(project: Path) -> None:
    plots_page.main()
    page = (project / plots_page.TEMPLATE).read_text(encoding="utf-8")
    assert "{plot_divs}" in page
    assert "{scripts}" not in page
    assert len(page) > 500_000
    assert '<script src="' not in page
    assert "html_template = plots_page.html" in (project / ".dvc/config.local").read_text()
    ignored = (ROOT / ".dvc/.gitignore").read_text().splitlines()
    assert f"/{plots_page.TEMPLATE.name}" in ignored


MISSING = None  # makes `import vl_convert` fail
TOO_OLD = SimpleNamespace(get_vegalite_versions=lambda: ["5.8"])
TOO_NEW = SimpleNamespace(get_vegalite_versions=lambda: ["v6.1"])


@pytest.mark.parametrize("installed", [MISSING, TOO_OLD, TOO_NEW])
def test_setup_succeeds_without_a_suitable_vl_convert(
    installed: object,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", installed)
    plots_page.main()
    warning = capsys.readouterr().err
    assert warning.startswith("WARNING: the charts of `dvc plots show` will need internet access (")
    assert warning.count("\n") == 1
    assert not (project / plots_page.TEMPLATE).exists()
    assert not (project / ".dvc/config.local").exists()
