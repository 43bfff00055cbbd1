"""Nearest neighbours, compared with distances worked out by hand, for any chunk size."""

import numpy as np
import pytest
import torch

from image_pipeline.app import nearest
from image_pipeline.app.nearest import find_nearest, num_searched
from image_pipeline.tensors.tensor_files import DatasetInfo, Split

PIXELS = [[0, 0], [3, 4], [255, 255], [6, 8], [0, 1]]
SPLIT = Split(
    torch.tensor(PIXELS, dtype=torch.uint8).reshape(5, 1, 1, 2),
    torch.tensor([0, 1, 0, 1, 1]),
    DatasetInfo("toy", ("cat", "dog"), (0.5,), (0.25,)),
)


@pytest.mark.parametrize("chunk_images", [1, 2, 5])
def test_the_nearest_come_first(chunk_images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "CHUNK_BYTES", 8 * chunk_images)
    found = find_nearest(SPLIT, np.zeros((1, 1, 2), np.uint8), 4)
    # Of the squared distances 0, 25, 130050, 100 and 1.
    assert [each.index for each in found] == [0, 4, 1, 3]
    assert [each.class_name for each in found] == ["cat", "dog", "dog", "dog"]
    assert found[2].pixels.tolist() == [[[3, 4]]]
    assert len(find_nearest(SPLIT, np.zeros((1, 1, 2), np.uint8), 9)) == 5


def test_only_the_first_images_of_a_very_large_split_are_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nearest, "MAX_BYTES", 6)
    assert num_searched(SPLIT) == 3
    found = find_nearest(SPLIT, np.full((1, 1, 2), 7, np.uint8), 1)
    assert [each.index for each in found] == [1]  # and not [6, 8], which comes after
