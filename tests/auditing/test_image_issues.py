import numpy as np

from image_pipeline.auditing.image_issues import ImageStatistics, odd_files


def test_each_issue_is_named() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 3, 32, 32)).astype(np.uint8)
    images[10] = 90
    images[20] = rng.integers(0, 20, (3, 32, 32))
    images[30] = rng.integers(240, 256, (3, 32, 32))
    images[40] = np.linspace(50, 200, 32).astype(np.uint8)
    images[50] = 255
    images[50, :, 4:8, 4:28] = 0  # a line of text
    statistics = ImageStatistics()
    for start in range(0, 200, 64):
        statistics.add(images[start : start + 64])
    found = {number: issue for number, issue, _ in statistics.issues()}
    assert found == {10: "blank", 20: "dark", 30: "bright", 40: "blurred", 50: "low information"}


def test_what_most_images_are_is_no_issue() -> None:
    statistics = ImageStatistics()
    statistics.add(np.random.default_rng(0).integers(0, 20, (50, 1, 28, 28)).astype(np.uint8))
    assert statistics.issues() == []
    assert ImageStatistics().issues() == []


def test_files_of_odd_size_and_shape() -> None:
    sizes = [(500, 400)] * 20 + [(40, 32), (1500, 200), (2600, 2000)]
    assert [(number, kind) for number, kind, _ in odd_files(sizes)] == [
        (20, "odd size"),
        (22, "odd size"),
        (21, "odd shape"),
    ]
    assert odd_files([]) == []
