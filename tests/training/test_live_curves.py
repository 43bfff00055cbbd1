"""The curves that training redraws while it runs."""

from pathlib import Path

import pandas as pd
import pytest

from image_pipeline.training.history import EpochRecord
from image_pipeline.training.live_curves import LiveCurves

RECORD = EpochRecord(1, 1, 1, 0, 0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many epochs are in each picture that is drawn."""
    found: list[int] = []
    draw = "image_pipeline.training.live_curves.draw_curves"
    monkeypatch.setattr(draw, lambda _, table: found.append(len(table)))
    return found


def test_live_curves_are_redrawn_at_most_once_a_second(
    drawn: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 10.1, 11.0, 11.2, 11.3, 99.0, 100.0, 119.0, 120.1, 120.2])
    monkeypatch.setattr("image_pipeline.training.live_curves.time.monotonic", lambda: next(clock))
    live = LiveCurves(tmp_path / "c.png", tmp_path / "c.csv")
    # Drawn at 10.0 for 0.1 s: the next not before 10.1 + 2 (0.1 s is 5% of 2 s).
    # Those at 11.0, 11.2 and 11.3 come too early. At 99.0 it takes 1 s, so not before 120 again.
    for epochs in range(1, 8):
        live.update([RECORD] * epochs)
    assert drawn == [1, 5, 7]
    assert len(pd.read_csv(tmp_path / "c.csv")) == 7


def test_the_last_epoch_is_drawn_at_the_end(drawn: list[int], tmp_path: Path) -> None:
    with LiveCurves(tmp_path / "c.png", tmp_path / "c.csv") as live:
        live.update([RECORD])
        live.update([RECORD] * 2)
    assert drawn == [1, 2]
    with LiveCurves(tmp_path / "c.png", tmp_path / "c.csv") as live:
        live.update([RECORD])
    assert drawn == [1, 2, 1]
