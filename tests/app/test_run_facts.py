"""Which run the page says it shows: the accuracy of this very model, or none."""

import hashlib
import json
from pathlib import Path

import pytest

from image_pipeline.app.run_facts import read_facts
from image_pipeline.common.params import read_params
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.tensors.tensor_files import DatasetInfo
from project import ROOT

CARD = ModelCard(
    network="mlp",
    source="0" * 64,
    input_shape=(1, 28, 28),
    data=DatasetInfo("toy", tuple(f"class {number}" for number in range(20)), (0.1,), (0.3,)),
    augmentation=read_params(ROOT / "params.yaml").train.augmentation,
)
MODEL = Path("models/model.safetensors")
METRICS = Path("metrics/test.json")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a run's files, in no Git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for path, content in (
        (MODEL, b"a model"),
        (METRICS, json.dumps({"accuracy": 0.9912, "errors": 88, "images": 10_000}).encode()),
    ):
        path.parent.mkdir()
        path.write_bytes(content)
    model, metrics = (
        {
            "path": str(path),
            "md5": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
        }
        for path in (MODEL, METRICS)
    )
    lock = {"stages": {"evaluate": {"deps": [model], "outs": [metrics]}}}
    Path("dvc.lock").write_text(json.dumps(lock))  # JSON is YAML


def test_the_accuracy_is_that_of_the_run() -> None:
    facts = read_facts(MODEL, CARD)
    assert facts.accuracy == "99.12% (88 errors in 10,000 images)"
    assert facts.commit == "not committed"
    assert facts.model_hash == hashlib.md5(b"a model", usedforsecurity=False).hexdigest()[:8]
    assert facts.classes().startswith("class 0, class 1, ")
    assert facts.classes().endswith(", class 11 and 8 more")


@pytest.mark.parametrize("path", [MODEL, METRICS])
def test_of_another_model_or_other_metrics_no_accuracy_is_known(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")
    assert read_facts(MODEL, CARD).accuracy == "unknown: dvc.lock is of another model"


@pytest.mark.parametrize("path", [Path("dvc.lock"), METRICS])
def test_a_run_that_was_not_recorded_has_no_accuracy(path: Path) -> None:
    path.unlink()
    assert read_facts(MODEL, CARD).accuracy.startswith("unknown")
