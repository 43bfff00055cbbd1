"""Writing the template; tests/browser/test_plots_page.py checks the page it makes."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from image_pipeline.commands import plots_page


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the template's path; the working directory is an empty DVC project."""
    path = tmp_path / "environment" / "plots_page.html"
    monkeypatch.setattr(plots_page, "TEMPLATE", path)
    monkeypatch.chdir(tmp_path)
    subprocess.run(["dvc", "init", "--quiet", "--no-scm"], check=True)
    return path


def test_the_template_contains_the_scripts_and_is_configured(
    template: Path, tmp_path: Path
) -> None:
    plots_page.main()
    page = template.read_text(encoding="utf-8")
    assert "{plot_divs}" in page
    assert "{scripts}" not in page
    assert len(page) > 500_000
    assert '<script src="' not in page
    config = (tmp_path / ".dvc/config.local").read_text()
    assert "html_template = ../environment/plots_page.html" in config


MISSING = None  # makes `import vl_convert` fail
TOO_OLD = SimpleNamespace(get_vegalite_versions=lambda: ["5.8"])
TOO_NEW = SimpleNamespace(get_vegalite_versions=lambda: ["v6.1"])


@pytest.mark.parametrize("installed", [MISSING, TOO_OLD, TOO_NEW])
def test_setup_succeeds_without_a_suitable_vl_convert(
    installed: object,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", installed)
    plots_page.main()
    warning = capsys.readouterr().err
    assert warning.startswith("WARNING: the charts of `dvc plots show` will need internet access (")
    assert warning.count("\n") == 1
    assert not template.exists()
    assert not (tmp_path / ".dvc/config.local").exists()
