"""Look for what is wrong with the data: near-duplicates, odd images, and doubtful labels.

Reads data/tensors/ and writes into the folder audit/: near_duplicates.csv, image_issues.csv, and a
picture of each. With --labels K it also trains K networks, each on a part of the images, and ranks
the labels by how much these networks doubt them (label_issues.csv). Changes nothing else.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, ParamsError
from image_pipeline.common.params import read_params

if TYPE_CHECKING:
    from image_pipeline.auditing.report import Audit
    from image_pipeline.common.params import Params

FOLDER = Path("audit")
MAX_FOLDS = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--labels",
        metavar="K",
        type=int,
        help=f"judge the labels, too, by K-fold cross-validation; 2 to {MAX_FOLDS}, 5 is usual. It "
        "takes K times as long as the stage train",
    )


def run(arguments: argparse.Namespace) -> int:
    """Audit the data, and print what was found; return the exit status.

    Raises:
        DataError: the tensors are missing or damaged, or are not those of the files in data/raw/.
        ParamsError: an argument or params.yaml is not valid.
        PipelineError: a process died, or a training run failed.
    """
    folds: int | None = arguments.labels
    if folds is not None and not 2 <= folds <= MAX_FOLDS:
        raise ParamsError(f"--labels {folds}: give a number from 2 to {MAX_FOLDS}")
    params = read_params()
    from image_pipeline import numerics

    numerics.pin("portable" if folds is None else params.train.numerics)

    # After the pin: these import torch and numpy.
    from image_pipeline.auditing.report import audit_images

    audit = audit_images(params)
    if folds is not None:
        _judge_labels(audit, params, folds)
    audit.write(FOLDER)
    print(audit.describe(FOLDER))
    return 0


def _judge_labels(audit: "Audit", params: "Params", folds: int) -> None:
    from dataclasses import replace

    import numpy as np
    import torch

    from image_pipeline import numerics
    from image_pipeline.auditing.confident_learning import judge_labels
    from image_pipeline.auditing.cross_validation import cross_validate
    from image_pipeline.training.checkpoint import result_key
    from image_pipeline.training.initial_weights import InitialWeights

    train, validation, test = audit.splits.values()
    smallest = int(np.bincount(torch.cat([train.labels, validation.labels]).numpy()).min())
    if folds > smallest:
        raise DataError(
            f"--labels {folds}: a class has only {smallest} training and validation images; give a "
            "smaller number, or add images"
        )
    learn = replace(
        train,
        images=torch.cat([train.images, validation.images]),
        labels=torch.cat([train.labels, validation.labels]),
    )
    data = [*paths.training_data(), paths.TEST_TENSORS]
    key = result_key(params.train, numerics.facts(), data=data, scripts=[])
    weights = InitialWeights.read(paths.WEIGHTS)
    learned, tested = cross_validate(learn, test, params, folds, weights, paths.CHECKPOINTS, key)
    audit.label_issues = judge_labels(learned, tested, learn.labels.numpy(), test.labels.numpy())
