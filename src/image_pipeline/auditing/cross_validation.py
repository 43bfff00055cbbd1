"""Out-of-sample probabilities of all images, from k-fold cross-validation with the run's settings.

Each fold's model learns from the other folds of the training and validation images, from the same
seed and for as many epochs as the run itself, and judges its own fold. The test images are judged
by all models, and the mean of their probabilities counts: none has learnt from these images.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from image_pipeline.common.files import write_bytes
from image_pipeline.common.params import Params
from image_pipeline.modeling.inference import BATCH_IMAGES, predict
from image_pipeline.tensors.tensor_files import Split
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.initial_weights import InitialWeights
from image_pipeline.training.train import Trainer


def assign_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return each image's fold, int64 `[N]`; classes are spread evenly over the folds."""
    rng = np.random.default_rng(seed)
    assigned = np.empty(len(labels), np.int64)
    begin = 0
    for label in np.unique(labels).tolist():
        members = rng.permutation(np.flatnonzero(labels == label))
        assigned[members] = (np.arange(len(members)) + begin) % folds
        begin += len(members)
    return assigned


def cross_validate(
    learn: Split,
    test: Split,
    params: Params,
    folds: int,
    weights: InitialWeights | None,
    folder: Path,
    key: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of all images of both splits.

    Those of `learn`, float64 `[N, classes]`, are each of one model; those of `test`, float64
    `[folds, N, classes]`, of all.

    Args:
        learn: the training and validation images.
        test: the test images.
        params: of the run.
        folds: how many models are trained, one after the other.
        weights: to start from.
        folder: for checkpoints and for what finished folds said, so that a killed run goes on.
        key: the hash of everything that determines the result.
    """
    assigned = assign_folds(learn.labels.numpy(), folds, params.tensorize.seed)
    classes = len(learn.info.class_names)
    learned = np.zeros((len(assigned), classes))
    tested = np.zeros((folds, len(test.labels), classes))
    for fold in range(folds):
        held_out = assigned == fold
        digest = hashlib.sha256(f"{key} {fold} of {folds}".encode()).hexdigest()
        kept = folder / f"audit-{digest[:16]}.npy"
        if kept.is_file():
            found = np.load(io.BytesIO(kept.read_bytes()), allow_pickle=False)
        else:
            tqdm.write(f"audit: fold {fold + 1} of {folds}")
            judged = [_part(learn, held_out), test]
            trainer = Trainer(
                _part(learn, ~held_out), judged[0], params.train, params.machine, None, weights
            )
            checkpoint = CheckpointFile(folder, digest)
            for _ in trainer.train(checkpoint):
                pass
            found = np.concatenate(list(_probabilities(trainer, judged)))
            buffer = io.BytesIO()
            np.save(buffer, found)
            write_bytes(kept, buffer.getvalue())
            checkpoint.remove()
        count = int(held_out.sum())
        learned[held_out] = found[:count]
        tested[fold] = found[count:]
    return learned, tested


def _part(split: Split, chosen: np.ndarray) -> Split:
    rows = torch.from_numpy(np.flatnonzero(chosen))
    return replace(split, images=split.images[rows], labels=split.labels[rows])


def _probabilities(trainer: Trainer, splits: list[Split]) -> Iterator[np.ndarray]:
    for split in splits:
        for logits, _ in predict(
            trainer.state.model, split, trainer.train_split.info, BATCH_IMAGES
        ):
            yield torch.softmax(logits.double(), dim=1).numpy()
