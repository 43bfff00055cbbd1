"""Judge the model on the test split, once: metrics/test.json and the tables behind the plots.

Always computed with portable numerics: a model trained with fast ones is judged like any other.
"""

from image_pipeline.stage import run_stage


def main() -> None:
    # Here, not at the top: run_stage takes care of Ctrl-C and of errors first.
    from image_pipeline import numerics, paths
    from image_pipeline.params import read_params

    params = read_params()
    numerics.pin("portable", threads=1)

    # After the pin: these import torch and numpy.
    from image_pipeline.evaluation import evaluate
    from image_pipeline.files import together, write_csv, write_json
    from image_pipeline.inference import predict_probabilities
    from image_pipeline.model import read_model
    from image_pipeline.tensor_files import read_split

    model, card = read_model(paths.MODEL)
    test = read_split(paths.TEST_TENSORS)
    card.check_fits(paths.TEST_TENSORS, test)
    probabilities = predict_probabilities(model, test, card.data, params.evaluate.batch_size)
    result = evaluate(
        probabilities,
        test.labels.numpy(),
        card.data.class_names,
        params.evaluate.calibration_bins,
    )
    with together():
        write_csv(paths.PREDICTIONS, result.predictions)
        write_csv(paths.CLASSES, result.classes)
        write_csv(paths.RELIABILITY, result.reliability)
        write_json(paths.TEST_METRICS, result.metrics)
    print(
        f"evaluate: final test accuracy {result.metrics['accuracy']:.2%} "
        f"({result.metrics['errors']} errors in {result.metrics['images']} images); "
        f"more in {paths.TEST_METRICS}"
    )


if __name__ == "__main__":
    run_stage(main, __doc__)
