"""A data set by its name, and what is wrong with a file that is none."""

from pathlib import Path

import pytest

from image_pipeline import datasets
from image_pipeline.common.errors import DataError, ParamsError
from image_pipeline.downloading.dataset import load_dataset
from project import ROOT
from published import PARAMS
from refusals import said_by

NAMES = sorted(
    path.stem for path in (ROOT / "src/image_pipeline/datasets").glob("*.py") if path.stem[0] != "_"
)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_a_data_set_that_says_what_is_not_downloaded(
    name: str, tmp_path: Path
) -> None:
    message = said_by(DataError, load_dataset(name).read, tmp_path, PARAMS)
    assert message.startswith(f"{tmp_path}/")
    assert message.endswith(": not found; run `dvc repro --force download`")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("def fetch(): ...", "has no function `read`"),
        ("read = fetch = 1", "has no function `fetch`"),
        ("def fetch(:", "cannot be imported: invalid syntax"),
        ("import no_such_module", "cannot be imported: No module named 'no_such_module'"),
    ],
)
def test_a_file_that_is_no_data_set_is_named(
    content: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"wrong_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.setattr(datasets, "__path__", [str(tmp_path)])
    told = f"params.yaml: download.dataset: src/image_pipeline/datasets/{name}.py {problem}"
    assert said_by(ParamsError, load_dataset, name).startswith(told)
