import hashlib
import io
import os
import time
from collections.abc import Callable
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
from refusals import damaged, quick
from toy import COMMITTED, KEY, choice, make_trainer, result, train

STATE = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "history": [{"epoch": 1}]}


def seal(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def sealed_save(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return seal(buffer.getvalue())


FOREIGN = "no checkpoint of this pipeline"
WHOLE = sealed_save({"key": KEY, "state": STATE})


def test_a_state_comes_back_as_it_was(checkpoint: CheckpointFile) -> None:
    assert checkpoint.load() is None
    checkpoint.save(STATE)
    assert checkpoint.path.read_bytes() == WHOLE
    state = checkpoint.load()
    assert state is not None
    assert torch.equal(state["model"]["weight"], torch.arange(6.0).reshape(2, 3))
    assert state["history"] == [{"epoch": 1}]
    assert [path.name for path in checkpoint.folder.iterdir()] == [f"{KEY[:32]}.checkpoint"]
    checkpoint.remove()
    assert list(checkpoint.folder.iterdir()) == []
    checkpoint.remove()  # again: nothing to do


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFile:
    return CheckpointFile(tmp_path_factory.mktemp("kept"), KEY)


@quick
@given(content=damaged(WHOLE) | st.binary(max_size=200).map(seal))
def test_any_other_content_is_ignored(content: bytes, kept: CheckpointFile) -> None:
    kept.path.write_bytes(content)
    assert (kept.load() is None) == (content != WHOLE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "torn; "),
        (WHOLE[:DIGEST_BYTES], "torn; "),
        (WHOLE[:-1], "torn; "),
        (seal(b""), f"{FOREIGN} (EOFError)"),
        (seal(b"hello"), f"{FOREIGN} ("),
        (sealed_save([1]), f"{FOREIGN} (TypeError)"),
        (sealed_save({"state": {}}), f"{FOREIGN} (KeyError)"),
        (sealed_save({"key": KEY, "state": 7}), f"{FOREIGN} (TypeError)"),
        (sealed_save({"key": "f" * 64, "state": STATE}), "of another run"),
        # Pickles of arbitrary classes are never built: that would run code of the file's choice.
        (sealed_save({"key": KEY, "state": {"x": Path()}}), f"{FOREIGN} (UnpicklingError)"),
        (sealed_save({"key": KEY, "state": {"x": np.zeros(2)}}), f"{FOREIGN} (UnpicklingError)"),
    ],
)
def test_why_it_is_ignored(
    content: bytes, reason: str, kept: CheckpointFile, capfd: pytest.CaptureFixture[str]
) -> None:
    kept.path.write_bytes(content)
    assert kept.load() is None
    said = capfd.readouterr().err
    assert said.startswith(f"WARNING: {kept.path}: this checkpoint is {reason}")
    assert said.endswith("; it is ignored and training starts from the beginning.\n")
    assert said.count("\n") == 1


def test_a_folder_in_its_place_is_an_error_that_names_it(checkpoint: CheckpointFile) -> None:
    checkpoint.path.mkdir(parents=True)
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
    model = COMMITTED.train.model.model_dump()
    assert key(model=model | {"cnn": {"filters": [5]}}) in keys  # of a network that is not chosen
    keys |= {key(epochs=4), key(model=choice("mlp", hidden_sizes=[5]))}
    for path in (data, script, module):
        path.write_bytes(b"2")
        keys.add(key())
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("every", "expected"),
    [(0, [0, 0, 0, 0]), (1, [1, 2, 3, 3]), (2, [0, 2, 2, 2]), (4, [0, 0, 0, 0])],
)
def test_checkpoint_every(every: int, expected: list[int], checkpoint: CheckpointFile) -> None:
    """After each epoch, how many are in the checkpoint: none is written after the last."""
    found = []
    for _ in make_trainer(checkpoint_every=every).train(checkpoint):
        state = checkpoint.load()
        found.append(len(state["history"]) if state else 0)
    assert found == expected


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Return a training that nothing stopped."""
    return train(make_trainer(), CheckpointFile(tmp_path_factory.mktemp("whole"), KEY))


MISFITS: dict[str, Callable[[dict[str, Any]], object]] = {
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
    spoil: Callable[[dict[str, Any]], object],
    checkpoint: CheckpointFile,
    capfd: pytest.CaptureFixture[str],
    whole: Trainer,
) -> None:
    train(make_trainer(), checkpoint, 1)
    state = checkpoint.load()
    assert state is not None
    spoil(state)
    checkpoint.save(state)
    training = train(make_trainer(), checkpoint)
    captured = capfd.readouterr()
    assert f"WARNING: {checkpoint.path}: this checkpoint is not of this training's form (" in (
        captured.err
    )
    assert "going on" not in captured.out
    assert result(training) == result(whole)
