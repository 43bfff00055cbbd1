"""Train the network on the training split and write models/model.safetensors.

The validation split is scored after every epoch; plots/curves.png is redrawn as training goes on.
A killed run goes on from its last checkpoint and ends in the same bits. It may share the work with
other machines, to the same bits again (docs/machines.md).
"""

from image_pipeline.common.stage import run_stage


def main() -> None:
    # Here, not at the top: run_stage takes care of Ctrl-C and of errors first.
    import time
    from pathlib import Path

    from image_pipeline import numerics
    from image_pipeline.common import paths
    from image_pipeline.common.params import read_params
    from image_pipeline.distributed.settings import Settings

    params = read_params()
    data = [paths.TRAIN_TENSORS, paths.VALIDATION_TENSORS]
    if asked := Settings.read(params.train.numerics):
        from image_pipeline.distributed.lead import lead

        lead(asked, params.train, data, Path(__file__))  # runs this script again, beside others
        return

    numerics.pin(params.train.numerics)

    # After the pin: these import torch and numpy.
    from image_pipeline.common.files import atomic_group
    from image_pipeline.distributed.exchange import exchange_of_this_process
    from image_pipeline.modeling.model_file import write_model
    from image_pipeline.plotting.curves import LiveCurves, draw_curves
    from image_pipeline.serialization import write_json
    from image_pipeline.tensors.tensor_files import read_split
    from image_pipeline.training.checkpoint import result_key
    from image_pipeline.training.history import write_history
    from image_pipeline.training.loop import Training

    exchange = exchange_of_this_process()
    start = time.perf_counter()
    train, validation = read_split(paths.TRAIN_TENSORS), read_split(paths.VALIDATION_TENSORS)
    training = Training(train, validation, params.train, params.machine, exchange)
    training.card.check_fits(paths.VALIDATION_TENSORS, validation)
    key = result_key(
        params.train.model_dump(exclude={"model", "optimizer"})
        | {"model": [params.train.model.name, params.train.model.options]}
        | {"optimizer": [params.train.optimizer.name, params.train.optimizer.options]}
        | numerics.facts(),
        data=data,
        scripts=[Path(__file__)],
    )
    checkpoint = exchange.checkpoint(paths.CHECKPOINTS, key)
    if exchange.machine:  # the first one alone writes results
        for _ in training.run(checkpoint):
            pass
        exchange.end()
        return
    with LiveCurves(paths.CURVES, paths.HISTORY) as curves:
        for history in training.run(checkpoint):
            curves.update(history)

    last = training.history[-1]
    why_not = "numerics: fast" if params.train.numerics == "fast" else ", ".join(training.unproved)
    portable = not why_not and not numerics.why_not_portable([])
    metrics = {
        "epochs": last.epoch,
        "portable": portable,
        "train": {"loss": last.train_loss, "accuracy": last.train_accuracy},
        "validation": {"loss": last.validation_loss, "accuracy": last.validation_accuracy},
    }
    with atomic_group():
        draw_curves(paths.CURVES, training.history)
        write_history(paths.HISTORY, training.history)
        write_json(paths.TRAIN_METRICS, metrics)
        write_model(paths.MODEL, training.model, training.card, training.typical)
    checkpoint.remove()
    exchange.end()
    said = "portable" if portable else f"not portable ({why_not or 'this machine, see above'})"
    print(
        f"train: {last.epoch} epochs in {time.perf_counter() - start:.1f} s, validation accuracy "
        f"{last.validation_accuracy:.2%}, {said}{exchange.traffic}; {paths.MODEL}, curves in "
        f"{paths.CURVES}"
    )


if __name__ == "__main__":
    run_stage(main, __doc__)
