"""The page shows the accuracy of exactly this model, or none."""

import json
from pathlib import Path

import pytest

from image_pipeline.app.run_info import read_run_info
from image_pipeline.common.hashes import dvc_md5
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.tensors.tensor_files import DatasetInfo

CARD = ModelCard(
    network="mlp",
    source="0" * 64,
    input_shape=(1, 28, 28),
    data=DatasetInfo("toy", tuple(f"class {number}" for number in range(20)), (0.1,), (0.3,)),
    augmentation={},
)
MODEL = Path("models/model.safetensors")
METRICS = Path("metrics/test.json")


@pytest.fixture(autouse=True)
def run_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a run's files, outside of any Git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for path, content in (
        (MODEL, b"a model"),
        (METRICS, json.dumps({"accuracy": 0.9912, "errors": 88, "images": 10_000}).encode()),
    ):
        path.parent.mkdir()
        path.write_bytes(content)
    model, metrics = ({"path": str(path), "md5": dvc_md5(path)} for path in (MODEL, METRICS))
    lock = {"stages": {"evaluate": {"deps": [model], "outs": [metrics]}}}
    Path("dvc.lock").write_text(json.dumps(lock))  # JSON is YAML


def test_the_accuracy_is_that_of_the_run() -> None:
    info = read_run_info(MODEL, CARD)
    assert info.accuracy == "99.12% (88 errors in 10,000 images)"
    assert info.commit == "not committed"
    assert info.model_hash == dvc_md5(MODEL)[:8]
    assert info.classes().startswith("class 0, class 1, ")
    assert info.classes().endswith(", class 11 and 8 more")


@pytest.mark.parametrize("path", [MODEL, METRICS])
def test_the_accuracy_of_another_model_or_other_metrics_is_unknown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")
    assert read_run_info(MODEL, CARD).accuracy == "unknown: dvc.lock does not name this model"


@pytest.mark.parametrize("path", [Path("dvc.lock"), METRICS])
def test_the_accuracy_of_an_unrecorded_run_is_unknown(path: Path) -> None:
    path.unlink()
    assert read_run_info(MODEL, CARD).accuracy.startswith("unknown")
