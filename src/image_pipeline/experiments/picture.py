"""The images that one run gets right and the other does not."""

import hashlib
from pathlib import Path

import numpy as np

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError
from image_pipeline.experiments.comparison import Comparison
from image_pipeline.experiments.results import Results
from image_pipeline.experiments.revisions import WORKSPACE

MOST = 32  # of each kind
DPI = 100


def draw_won_and_lost(path: Path, comparison: Comparison, a: Results, b: Results) -> str:
    """Draw the images that B finds and A missed, then those that it misses and A found.

    Of very many, those are drawn in which the one that is wrong is most confident.

    Args:
        path: of the PNG.
        comparison: of the two.
        a: the first run.
        b: the second one.

    Returns:
        What was drawn, in words.

    Raises:
        DataError: the test images are not in the workspace, or are others than the runs'.
    """
    check_images(a)
    from image_pipeline.plotting.images import draw_images
    from image_pipeline.plotting.labels import short_names
    from image_pipeline.tensors.tensor_files import read_sample

    won, lost = _worst(comparison.won, a), _worst(comparison.lost, b)
    short = dict(zip(a.class_names, short_names(a.class_names), strict=True))

    def caption(row: int, letter: str, results: Results) -> str:
        said = results.predictions.names[results.predictions.predicted[row]]
        actual = a.predictions.names[a.predictions.actual[row]]
        kind = "won" if letter == "A" else "lost"
        return f"{kind}: {short[actual]}\n{letter}: {short.get(said, said)}"

    captions = [caption(row, "A", a) for row in won] + [caption(row, "B", b) for row in lost]
    sample = read_sample(paths.TEST_TENSORS, [*won, *lost])
    title = (
        f"B finds {len(comparison.won)} that A missed (won, with what A said)\n"
        f"and misses {len(comparison.lost)} that A found (lost, with what B said)"
    )
    draw_images(path, sample.images, captions, title, DPI)
    return f"{len(won)} of {len(comparison.won)} won and {len(lost)} of {len(comparison.lost)} lost"


def check_images(results: Results) -> None:
    """Make sure that the workspace has the test images of a run.

    Raises:
        DataError: it has not.
    """
    path = paths.TEST_TENSORS
    if not path.is_file():
        raise DataError(f"{path}: not found, so no picture is drawn; run `dvc pull {path}`")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    if digest.hexdigest() != results.hash_of(path):
        here = "" if results.revision.name == WORKSPACE else f"check out {results.revision}, then "
        raise DataError(
            f"{path}: not the test images of {results.revision}, so no picture is drawn; "
            f"{here}run `dvc pull {path}`"
        )


def _worst(rows: np.ndarray, wrong: Results) -> list[int]:
    confidence = wrong.predictions.confidence[rows]
    return [int(row) for row in rows[np.argsort(-confidence, kind="stable")[:MOST]]]
