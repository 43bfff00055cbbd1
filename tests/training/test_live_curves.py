"""The curves that training redraws while it runs."""

from pathlib import Path

import pandas as pd
import pytest

from image_pipeline.training.history import EpochRecord
from image_pipeline.training.live_curves import LiveCurves


def test_live_curves_are_redrawn_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    clock = iter([10.0, 10.1, 11.0, 11.2, 11.3, 99.0, 100.0, 119.0, 120.1, 120.2])
    monkeypatch.setattr("image_pipeline.training.live_curves.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(
        "image_pipeline.training.live_curves.draw_curves", lambda _, table: drawn.append(len(table))
    )
    live = LiveCurves(tmp_path / "c.png", tmp_path / "c.csv")
    record = EpochRecord(1, 1, 1, 0, 0)
    # Drawn at 10.0 for 0.1 s: the next not before 10.1 + 2 (0.1 s is 5% of 2 s).
    live.update([record] * 1)
    live.update([record] * 2)  # 11.0: too early
    live.update([record] * 3)  # 11.2: too early
    live.update([record] * 4)  # 11.3: too early
    live.update([record] * 5)  # 99.0 to 100.0: 1 s, so not before 120
    live.update([record] * 6)  # 119.0: too early
    live.update([record] * 7)  # 120.1
    assert drawn == [1, 5, 7]
    assert len(pd.read_csv(tmp_path / "c.csv")) == 7


def test_the_last_epoch_is_drawn_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(
        "image_pipeline.training.live_curves.draw_curves", lambda _, table: drawn.append(len(table))
    )
    record = EpochRecord(1, 1, 1, 0, 0)
    with LiveCurves(tmp_path / "c.png", tmp_path / "c.csv") as live:
        live.update([record])
        live.update([record] * 2)
    assert drawn == [1, 2]
    with LiveCurves(tmp_path / "c.png", tmp_path / "c.csv") as live:
        live.update([record])
    assert drawn == [1, 2, 1]
