"""What is compared between machines, and the words for what differs."""

import copy
import time
from pathlib import Path
from typing import Any

import pytest

from image_pipeline.common.params import read_params
from image_pipeline.distributed.facts import Facts, data_facts, difference, facts_of
from project import ROOT

PARAMS = read_params(ROOT / "params.yaml").train
SCRIPT = ROOT / "stages" / "train.py"


@pytest.fixture(scope="module")
def known() -> Facts:
    return facts_of(PARAMS, SCRIPT) | {"data": {"data/train": "1"}}


def other_than(facts: Facts, clock: float = 0.0) -> Any:
    return copy.deepcopy(facts) | {"clock": time.time() + clock}


def test_what_is_known(known: Facts) -> None:
    assert {"stages/train.py", "src/image_pipeline/training/loop.py"} <= known["code"].keys()
    assert "src/image_pipeline/numerics/operations.csv" in known["code"]
    networks = {name for name in known["code"] if name.startswith("src/image_pipeline/models/")}
    assert networks == {f"src/image_pipeline/models/{name}.py" for name in ("__init__", "mlp")}
    assert known["settings"]["train.model.mlp.hidden_sizes"] == [120, 84]
    assert known["settings"]["train.augmentation.rotation"] == 8.0
    assert {"numpy", "scipy", "torch", "the processor"} <= known["settings"].keys()


def test_equals_differ_in_nothing(known: Facts) -> None:
    assert difference(known, other_than(known)) is None
    without_data = other_than(known)
    del without_data["data"]  # not fetched yet
    assert difference(known, without_data) is None
    assert difference(known, other_than(known, clock=0.5)) is None
    at_another_commit = other_than(known) | {"commit": "abc"}  # of the same code
    assert difference(known, at_another_commit) is None


def test_the_words_for_what_differs(known: Facts) -> None:
    other = other_than(known)
    other["code"]["stages/train.py"] = "0"
    assert difference(known, other) == (
        f"stages/train.py is not as on the first machine; the first machine is at commit "
        f"{known['commit']} as this one, and one of them has changes"
    )
    other["commit"] = "abc\x1b[2J"
    assert str(difference(known, other)).endswith("this one at abc?[2J: `git checkout` it")
    other = other_than(known)
    del other["code"]["src/image_pipeline/training/lanes.py"]
    assert str(difference(known, other)).startswith("src/image_pipeline/training/lanes.py is not")

    other = other_than(known)
    other["settings"]["train.epochs"] = 9
    assert difference(known, other) == "train.epochs is 9 here and 32 on the first machine"
    other = other_than(known)
    other["settings"]["torch"] = "1.0"
    version = known["settings"]["torch"]
    assert difference(known, other) == f"torch is 1.0 here and {version} on the first machine"
    del other["settings"]["torch"]
    assert difference(known, other) == f"torch is missing here and {version} on the first machine"

    other = other_than(known)
    other["data"]["data/train"] = "2"
    assert str(difference(known, other)).startswith("data/train has other bytes than on the first")

    said = difference(known, other_than(known, clock=-60.0))
    assert said == (
        "the clock is 60 s behind the first machine's, and they may be 1 s apart; have both set by "
        "the network (NTP)"
    )
    assert "60 s ahead of" in str(difference(known, other_than(known, clock=60.2)))


def test_one_byte_of_data_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"1")
    before = data_facts([file])
    file.write_bytes(b"2")
    assert data_facts([file]).keys() == before.keys()
    assert data_facts([file]) != before
