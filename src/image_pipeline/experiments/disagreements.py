"""A figure of the images that one run classifies correctly and the other does not."""

from pathlib import Path

import numpy as np

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError
from image_pipeline.common.hashes import dvc_md5
from image_pipeline.experiments.comparison import Comparison
from image_pipeline.experiments.results import Results
from image_pipeline.experiments.revisions import WORKSPACE

MAX_IMAGES = 32  # of each kind
DPI = 100


def draw_disagreements(path: Path, comparison: Comparison, a: Results, b: Results) -> str:
    """Draw the images that only B gets right, then those that only A gets right.

    If there are too many, those are drawn on which the wrong run is most confident.

    Args:
        path: of the PNG.
        comparison: of A and B.
        a: the results of A.
        b: the results of B.

    Returns:
        A summary of what was drawn.

    Raises:
        DataError: the test images are not in the workspace, or not those of the runs.
    """
    _check_images(a)
    from image_pipeline.plotting.images import draw_images
    from image_pipeline.plotting.labels import short_names
    from image_pipeline.tensors.tensor_files import read_sample

    only_b, only_a = comparison.only_b_correct, comparison.only_a_correct
    errors_a, errors_b = _most_confident(only_b, a), _most_confident(only_a, b)
    short = dict(zip(a.class_names, short_names(a.class_names), strict=True))

    def caption(row: int, correct: str, wrong: str, results: Results) -> str:
        predicted, actual = results.predictions.predicted[row], a.predictions.actual[row]
        return f"{correct}: {short[actual]}\n{wrong}: {short.get(predicted, predicted)}"

    captions = [caption(row, "B", "A", a) for row in errors_a]
    captions += [caption(row, "A", "B", b) for row in errors_b]
    sample = read_sample(paths.TEST_TENSORS, [*errors_a, *errors_b])
    title = f"{len(only_b)} images that only B gets right,\n{len(only_a)} that only A gets right"
    draw_images(path, sample.images, captions, title, DPI)
    return (
        f"{len(errors_a)} of {len(only_b)} images that only B gets right, and {len(errors_b)} of "
        f"{len(only_a)} that only A gets right"
    )


def _check_images(results: Results) -> None:
    """Check that the workspace has the test images of a run."""
    path = paths.TEST_TENSORS
    if not path.is_file():
        raise DataError(f"{path}: not found, so no picture is drawn; run `dvc pull {path}`")
    if dvc_md5(path) != results.hash_of(path):
        here = "" if results.revision.name == WORKSPACE else f"check out {results.revision}, then "
        raise DataError(
            f"{path}: not the test images of {results.revision}, so no picture is drawn; "
            f"{here}run `dvc pull {path}`"
        )


def _most_confident(rows: np.ndarray, wrong: Results) -> list[int]:
    """Return the rows in which the wrong run has the highest confidence, at most MAX_IMAGES."""
    confidence = wrong.predictions.confidence[rows]
    return [int(row) for row in rows[np.argsort(-confidence, kind="stable")[:MAX_IMAGES]]]
