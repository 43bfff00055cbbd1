"""docs/networks.md: its example is a whole network, and its table has each."""

import re
import sys
from pathlib import Path

import pytest
import torch

from image_pipeline import models
from image_pipeline.modeling import networks
from project import ROOT, Project, code_blocks

TEXT = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
[EXAMPLE] = code_blocks(TEXT, "python")


@pytest.mark.slow
def test_the_example_is_trained_by_its_name_alone(finished: Project) -> None:
    finished.set_params({"train.epochs": 8})
    path = finished.root / "src" / "image_pipeline" / "models" / "mixer.py"
    path.write_text(EXAMPLE)
    finished.commit("a network")
    done = finished.run("dvc", "exp", "run", "-S", "train.model.name=mixer")
    assert ", portable; models/model.safetensors" in done.stdout
    assert "WARNING" not in done.stderr
    accuracy = re.search(r"final test accuracy ([0-9.]+)%", done.stdout)
    assert accuracy
    assert float(accuracy[1]) > 80


def test_its_options_do_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mixer.py").write_text(EXAMPLE)
    monkeypatch.setattr(networks, "FOLDER", tmp_path)
    monkeypatch.setattr(models, "__path__", [str(tmp_path)])
    model = networks.build("mixer", {"depth": 4, "width": 8}, (3, 32, 32), 10)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sum(name.endswith("space.0.weight") for name, _ in model.named_parameters()) == 4
    sys.modules.pop("image_pipeline.models.mixer")


def test_its_table_has_each_network() -> None:
    assert sorted(re.findall(r"^\| `([a-z0-9_]+)` \|", TEXT, re.MULTILINE)) == networks.names()
