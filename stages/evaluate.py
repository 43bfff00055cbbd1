"""Evaluate the model on the test split, once: metrics/test.json and the tables of the plots.

Always with portable numerics, even if the model was trained with `numerics: fast`.
"""

from image_pipeline.common.stage import TYPE_CHECKING, run_stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd


def main() -> None:
    # Here, not at the top: run_stage takes care of Ctrl-C and of errors first.
    import sys
    from itertools import chain

    from image_pipeline import numerics
    from image_pipeline.common import paths
    from image_pipeline.common.params import read_params

    params = read_params()
    numerics.pin("portable")

    # After the pin: these import torch and numpy.
    import torch
    from tqdm import tqdm

    from image_pipeline.common.files import atomic_group
    from image_pipeline.evaluation.metrics import Evaluation
    from image_pipeline.modeling.inference import predict
    from image_pipeline.modeling.model_file import read_model
    from image_pipeline.numerics.portability import PortabilityCheck
    from image_pipeline.serialization import write_csv, write_csv_parts, write_json
    from image_pipeline.tensors.tensor_files import read_split

    model, card = read_model(paths.MODEL)
    test = read_split(paths.TEST_TENSORS)
    card.check_fits(paths.TEST_TENSORS, test)
    evaluation = Evaluation(card.data.class_names, params.evaluate.calibration_bins)

    def rows() -> "Iterator[pd.DataFrame]":
        batches = predict(model, test, card.data, params.evaluate.batch_size)
        with PortabilityCheck() as check:
            first = next(batches)
        for line in check.warnings():
            print(line, file=sys.stderr)
        with tqdm(total=len(test.labels), desc="evaluate", unit="image", unit_scale=True) as bar:
            for logits, labels in chain([first], batches):
                probabilities = torch.softmax(logits.double(), dim=1)
                yield evaluation.update(probabilities.numpy(), labels.numpy())
                bar.update(len(labels))

    with atomic_group():
        write_csv_parts(paths.PREDICTIONS, rows())
        metrics = evaluation.compute()
        write_csv(paths.CLASSES, evaluation.per_class())
        write_csv(paths.RELIABILITY, evaluation.calibration.table())
        write_json(paths.TEST_METRICS, metrics)
    print(
        f"evaluate: final test accuracy {metrics['accuracy']:.2%} "
        f"({metrics['errors']} errors in {metrics['images']} images); "
        f"more in {paths.TEST_METRICS}"
    )


if __name__ == "__main__":
    run_stage(main, __doc__)
