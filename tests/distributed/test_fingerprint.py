"""What is compared between hosts, and the messages for what differs."""

import copy
import time
from pathlib import Path
from typing import Any

import pytest

from image_pipeline.common.params import read_params
from image_pipeline.distributed.fingerprint import (
    Fingerprint,
    data_fingerprint,
    describe_mismatch,
    environment_fingerprint,
)
from project import ROOT

PARAMS = read_params(ROOT / "params.yaml").train
SCRIPT = ROOT / "stages" / "train.py"


@pytest.fixture(scope="module")
def coordinator() -> Fingerprint:
    return environment_fingerprint(PARAMS, SCRIPT) | {"data": {"data/train": "1"}}


def another_host(fingerprint: Fingerprint, skew: float = 0.0) -> Any:
    return copy.deepcopy(fingerprint) | {"clock": time.time() + skew}


def test_contents(coordinator: Fingerprint) -> None:
    code, settings = coordinator["code"], coordinator["settings"]
    assert {"stages/train.py", "src/image_pipeline/training/checkpoint.py"} <= code.keys()
    assert "src/image_pipeline/numerics/operations.csv" in code
    networks = {name for name in code if name.startswith("src/image_pipeline/models/")}
    assert networks == {f"src/image_pipeline/models/{name}.py" for name in ("__init__", "mlp")}
    assert settings["train.model.mlp.hidden_sizes"] == [120, 84]
    assert settings["train.loss.name"] == "cross_entropy"
    assert settings["train.optimizer.Adam.betas"] == [0.9, 0.999]
    assert settings["train.lr_schedule.one_cycle.warmup_fraction"] == 0.2
    assert settings["train.augmentation.rotation"] == 8.0
    assert "train.model.cnn.filters" not in settings  # of a network that is not chosen
    assert {"numpy", "scipy", "torch", "the processor"} <= settings.keys()


def test_equal_hosts_have_no_mismatch(coordinator: Fingerprint) -> None:
    assert describe_mismatch(coordinator, another_host(coordinator)) is None
    without_data = another_host(coordinator)
    del without_data["data"]  # not fetched yet
    assert describe_mismatch(coordinator, without_data) is None
    assert describe_mismatch(coordinator, another_host(coordinator, skew=0.5)) is None
    at_another_commit = another_host(coordinator) | {"commit": "abc"}  # of the same code
    assert describe_mismatch(coordinator, at_another_commit) is None


def test_messages_for_mismatches(coordinator: Fingerprint) -> None:
    commit, torch = coordinator["commit"], coordinator["settings"]["torch"]
    other = another_host(coordinator)
    other["code"]["stages/train.py"] = "0"
    assert describe_mismatch(coordinator, other) == (
        f"stages/train.py differs from the coordinator's, which is at commit {commit}, too, and "
        "one of the two has uncommitted changes"
    )
    other["commit"] = "abc\x1b[2J"
    assert describe_mismatch(coordinator, other) == (
        f"stages/train.py differs from the coordinator's, which is at commit {commit}, this "
        f"machine at abc?[2J; run `git checkout {commit}`"
    )
    other = another_host(coordinator)
    del other["code"]["src/image_pipeline/training/checkpoint.py"]
    message = str(describe_mismatch(coordinator, other))
    assert message.startswith("src/image_pipeline/training/checkpoint.py differs")

    other = another_host(coordinator)
    other["settings"]["train.epochs"] = 9
    message = "train.epochs is 9 here and 32 on the coordinator"
    assert describe_mismatch(coordinator, other) == message
    other = another_host(coordinator)
    other["settings"]["torch"] = "1.0"
    message = f"torch is 1.0 here and {torch} on the coordinator"
    assert describe_mismatch(coordinator, other) == message
    del other["settings"]["torch"]
    message = f"torch is missing here and {torch} on the coordinator"
    assert describe_mismatch(coordinator, other) == message

    other = another_host(coordinator)
    other["data"]["data/train"] = "2"
    message = "data/train differs from the coordinator's; run `dvc pull`"
    assert str(describe_mismatch(coordinator, other)).startswith(message)

    other = another_host(coordinator, skew=-60.0)
    assert describe_mismatch(coordinator, other) == (
        "the clock is 60 s behind the coordinator's, at most 1 s is allowed; synchronize both by "
        "the network (NTP)"
    )
    other = another_host(coordinator, skew=60.2)
    assert "60 s ahead of" in str(describe_mismatch(coordinator, other))


def test_one_changed_byte_of_data_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"1")
    before = data_fingerprint([file])
    file.write_bytes(b"2")
    assert data_fingerprint([file]).keys() == before.keys()
    assert data_fingerprint([file]) != before
