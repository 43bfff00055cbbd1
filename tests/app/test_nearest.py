"""The nearest training images, worked out by hand, and found in whatever pieces they are read."""

import numpy as np
import pytest
import torch

from image_pipeline.app import nearest
from image_pipeline.app.nearest import find_nearest, searched
from image_pipeline.tensors.tensor_files import DatasetInfo, Split

PIXELS = [[0, 0], [3, 4], [255, 255], [6, 8], [0, 1]]
SPLIT = Split(
    torch.tensor(PIXELS, dtype=torch.uint8).reshape(5, 1, 1, 2),
    torch.tensor([0, 1, 0, 1, 1]),
    DatasetInfo("toy", ("cat", "dog"), (0.5,), (0.25,)),
)


@pytest.mark.parametrize("max_batch_size", [1, 2, 5])
def test_the_nearest_come_first(max_batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "CHUNK_BYTES", 8 * max_batch_size)
    found = find_nearest(SPLIT, np.zeros((1, 1, 2), np.uint8), 4)
    # Of the squared distances 0, 25, 130050, 100 and 1.
    assert [one.number for one in found] == [0, 4, 1, 3]
    assert [one.class_name for one in found] == ["cat", "dog", "dog", "dog"]
    assert found[2].pixels.tolist() == [[[3, 4]]]
    assert len(find_nearest(SPLIT, np.zeros((1, 1, 2), np.uint8), 9)) == 5


def test_of_a_very_large_split_the_first_images_are_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nearest, "MAX_BYTES", 6)
    assert searched(SPLIT) == 3
    found = find_nearest(SPLIT, np.full((1, 1, 2), 7, np.uint8), 1)
    assert [one.number for one in found] == [1]  # and not [6, 8], which comes after
