import hashlib
import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import image_pipeline.modeling.model_file
from image_pipeline.training.checkpoint import DIGEST_BYTES, KEPT, CheckpointFile, result_key
from image_pipeline.training.params import TrainParams
from image_pipeline.training.train import Trainer
from refusals import quick
from toy import COMMITTED, make_trainer, result, train

KEY = "0123456789abcdef" * 4
STATE = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "history": [{"epoch": 1}]}


def seal(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def sealed_save(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return seal(buffer.getvalue())


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(tmp_path, KEY)
    assert checkpoint.load() is None
    checkpoint.save(STATE)
    state = checkpoint.load()
    assert state is not None
    assert torch.equal(state["model"]["weight"], torch.arange(6.0).reshape(2, 3))
    assert state["history"] == [{"epoch": 1}]
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY[:32]}.checkpoint"]
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []
    checkpoint.remove()  # again: nothing to do


def test_the_file_begins_with_the_digest_of_the_rest(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(tmp_path, KEY)
    checkpoint.save(STATE)
    content = checkpoint.path.read_bytes()
    assert hashlib.sha256(content[DIGEST_BYTES:]).digest() == content[:DIGEST_BYTES]


@pytest.mark.parametrize("kept", [0, DIGEST_BYTES, -1])
def test_a_truncated_file_is_reported_and_ignored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kept: int
) -> None:
    checkpoint = CheckpointFile(tmp_path, KEY)
    checkpoint.save(STATE)
    content = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(content[:kept])
    assert checkpoint.load() is None
    assert capfd.readouterr().err == (
        f"WARNING: {checkpoint.path}: this checkpoint is torn; it is ignored and training starts "
        "from the beginning.\n"
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFile:
    return CheckpointFile(tmp_path_factory.mktemp("kept"), KEY)


@quick
@given(start=st.integers(0, 1500), length=st.integers(0, 9), new=st.binary(max_size=9))
def test_any_damage_is_seen(start: int, length: int, new: bytes, kept: CheckpointFile) -> None:
    kept.save(STATE)
    content = kept.path.read_bytes()
    changed = content[:start] + new + content[start + length :]
    kept.path.write_bytes(changed)
    assert (kept.load() is None) == (changed != content)


@quick
@given(content=st.binary(max_size=200))
def test_any_content_with_a_digest_is_ignored(content: bytes, kept: CheckpointFile) -> None:
    kept.path.write_bytes(seal(content))
    assert kept.load() is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (seal(b""), "no checkpoint of this pipeline (EOFError)"),
        (seal(b"hello"), "no checkpoint of this pipeline ("),
        (sealed_save([1]), "no checkpoint of this pipeline (TypeError)"),
        (sealed_save({"state": {}}), "no checkpoint of this pipeline (KeyError)"),
        (sealed_save({"key": KEY, "state": 7}), "no checkpoint of this pipeline (TypeError)"),
        (sealed_save({"key": "f" * 64, "state": STATE}), "of another run"),
        # Pickles of arbitrary classes are never built: that would run code of the file's choice.
        (sealed_save({"key": KEY, "state": {"x": Path()}}), "(UnpicklingError)"),
        (sealed_save({"key": KEY, "state": {"x": np.zeros(2)}}), "(UnpicklingError)"),
    ],
    ids=["empty", "text", "list", "no key", "state is 7", "other key", "class", "array"],
)
def test_a_foreign_file_is_reported_and_ignored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    checkpoint = CheckpointFile(tmp_path, KEY)
    checkpoint.path.write_bytes(content)
    assert checkpoint.load() is None
    said = capfd.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_a_folder_in_its_place_is_an_error_that_names_it(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(tmp_path, KEY)
    checkpoint.path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        checkpoint.load()
    assert str(caught.value.filename) == str(checkpoint.path)


def test_abandoned_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    now = time.time()
    for age in range(6):
        path = tmp_path / f"{age:032x}.checkpoint"
        path.write_bytes(b"")
        os.utime(path, (now - 100 - age, now - 100 - age))
    (tmp_path / f"{7:032x}.checkpoint.partial").write_bytes(b"of a killed run")
    checkpoint = CheckpointFile(tmp_path, KEY)
    checkpoint.save(STATE)
    newest = [f"{age:032x}.checkpoint" for age in range(KEPT - 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*newest, checkpoint.path.name]
    (tmp_path / f"{7:032x}.checkpoint.partial").write_bytes(b"of another one")
    checkpoint.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == newest


def test_the_key_tells_settings_data_and_code_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, script, module = tmp_path / "data", tmp_path / "script.py", tmp_path / "module.py"
    for path in (data, script, module):
        path.write_bytes(b"1")
    monkeypatch.setattr(image_pipeline.modeling.model_file, "__file__", str(module))

    def key(**changes: object) -> str:
        params = TrainParams.model_validate(COMMITTED.train.model_dump() | changes)
        return result_key(params, {"torch": "1"}, [data], [script])

    keys = {key()}
    assert key() in keys  # the same again
    assert len(key()) == 64
    keys.add(key(epochs=4))
    model = COMMITTED.train.model.model_dump()
    assert key(model=model | {"cnn": {"filters": [5]}}) in keys  # of a network that is not chosen
    keys.add(key(model=model | {"mlp": {"hidden_sizes": [5]}}))
    for path in (data, script, module):
        path.write_bytes(b"2")
        keys.add(key())
    assert len(keys) == 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Return a training that nothing stopped."""
    return train(make_trainer(), CheckpointFile(tmp_path_factory.mktemp("whole"), KEY))


def test_a_resumed_training_says_so_and_ends_in_the_same_bits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], whole: Trainer
) -> None:
    """With other optimizers and schedules: in test_training.py."""
    checkpoint = CheckpointFile(tmp_path, KEY)
    train(make_trainer(), checkpoint, 2)
    capfd.readouterr()
    resumed = train(make_trainer(), checkpoint)
    going_on = f"train: going on after epoch 2 from {checkpoint.path}\n"
    assert capfd.readouterr().out.startswith(going_on)
    assert result(resumed) == result(whole)
    assert len(whole.state.history) == 4


@pytest.mark.parametrize("numbers", [(3, 1), (1, 3)])
@pytest.mark.usefixtures("small_microbatches")
def test_a_training_goes_on_with_another_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, int]
) -> None:
    monkeypatch.setattr("image_pipeline.training.train.available_cores", lambda: 8)
    whole = train(make_trainer(cores=1), CheckpointFile(tmp_path / "b", KEY))
    assert whole.loader.max_microbatches == 4
    checkpoint = CheckpointFile(tmp_path / "c", KEY)
    train(make_trainer(cores=numbers[0]), checkpoint, 2)
    assert result(train(make_trainer(cores=numbers[1]), checkpoint)) == result(whole)


def test_checkpoint_every(tmp_path: Path) -> None:
    for every, expected in ((0, None), (1, 3), (2, 2), (4, None)):
        checkpoint = CheckpointFile(tmp_path / str(every), KEY)
        train(make_trainer(checkpoint_every=every), checkpoint, 3)
        state = checkpoint.load()
        assert (len(state["history"]) if state else None) == expected


MISFITS: dict[str, Any] = {
    "no model": lambda state: state.pop("model"),
    "no receipt": lambda state: state.pop("receipt"),
    "a receipt of more epochs": lambda state: state["receipt"]["epochs"].append("epoch 2: 0"),
    "schedule is none": lambda state: state.update(lr_schedule=None),
    "empty history": lambda state: state.update(history=[]),
    "too long a history": lambda state: state.update(history=state["history"] * 4),
    "other record": lambda state: state.update(history=[{"epoch": 1}]),
    "weights of another shape": lambda state: state["model"].update(
        {"output.bias": torch.zeros(7)}
    ),
    "other groups of weights": lambda state: state["optimizer"].update(param_groups=[]),
}


@pytest.mark.parametrize("spoil", MISFITS.values(), ids=MISFITS.keys())
def test_a_state_that_does_not_fit_is_reported_and_training_starts_anew(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], spoil: Any, whole: Trainer
) -> None:
    checkpoint = CheckpointFile(tmp_path / "b", KEY)
    train(make_trainer(), checkpoint, 1)
    state = checkpoint.load()
    assert state is not None
    spoil(state)
    checkpoint.save(state)
    capfd.readouterr()
    training = train(make_trainer(), checkpoint)
    captured = capfd.readouterr()
    assert f"WARNING: {checkpoint.path}: this checkpoint is not of this training's form (" in (
        captured.err
    )
    assert "going on" not in captured.out
    assert result(training) == result(whole)
