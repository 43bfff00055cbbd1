"""Image files as tasks for several processes."""

import numpy as np
import pytest

from image_pipeline.reading import decoding
from image_pipeline.reading.pixels import PixelSettings


def test_tasks_are_bounded_in_images_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "TASK_IMAGES", 3)
    monkeypatch.setattr(decoding, "TASK_BYTES", 10)

    def parts(sizes: list[int], size: int = 1, indices: list[int] | None = None) -> list[list[int]]:
        places = np.array(indices or range(len(sizes)))
        found = decoding._parts(places, np.array(sizes), PixelSettings(1, size, "pad"))
        return [sizes[part] for part in found]

    assert parts([4, 4, 4, 1, 1, 1, 1]) == [[4, 4], [4, 1, 1], [1, 1]]
    assert parts([5, 5, 1]) == [[5, 5], [1]]
    assert parts([20, 1, 20]) == [[20], [1], [20]]
    assert parts([1, 1, 1, 1], size=2) == [[1, 1], [1, 1]]  # 4 bytes of pixels each
    assert parts([1, 1], size=9) == [[1], [1]]
    assert parts([1, 2, 3, 4], indices=[4, 5, 7, 9]) == [[1, 2], [3], [4]]  # with gaps
    assert parts([]) == []
