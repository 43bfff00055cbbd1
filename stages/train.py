"""Train the network on the training split and write models/model.safetensors.

The validation split is scored after every epoch; plots/curves.png is redrawn as training goes on.
A killed run goes on from its last checkpoint and ends in the same bits. It may share the work with
other hosts, to the same bits again (docs/machines.md).
"""

from image_pipeline.common.stage import run_stage


def main() -> None:
    # Here, not at the top: run_stage takes care of Ctrl-C and of errors first.
    import time
    from dataclasses import replace
    from pathlib import Path

    from image_pipeline import numerics
    from image_pipeline.common import paths
    from image_pipeline.common.params import read_params
    from image_pipeline.distributed.settings import CoordinatorSettings

    params = read_params()
    data = paths.training_data()
    if settings := CoordinatorSettings.from_environment(params.train.numerics):
        from image_pipeline.distributed.coordinator import run_coordinator

        run_coordinator(settings, params.train, data, Path(__file__))  # runs this script again
        return

    numerics.pin(params.train.numerics)

    # After the pin: these import torch and numpy.
    import pandas as pd

    from image_pipeline.common.files import atomic_group
    from image_pipeline.distributed.distributed_group import host_group_from_environment
    from image_pipeline.modeling import ood
    from image_pipeline.modeling.model_file import write_model
    from image_pipeline.serialization import write_csv, write_json
    from image_pipeline.tensors.tensor_files import read_split
    from image_pipeline.training.checkpoint import result_key
    from image_pipeline.training.initial_weights import InitialWeights
    from image_pipeline.training.live_curves import LiveCurves
    from image_pipeline.training.train import Trainer

    hosts = host_group_from_environment()
    start = time.perf_counter()
    train, validation = read_split(paths.TRAIN_TENSORS), read_split(paths.VALIDATION_TENSORS)
    weights = InitialWeights.read(paths.WEIGHTS)
    trainer = Trainer(train, validation, params.train, params.machine, hosts, weights)
    trainer.card.check_fits(paths.VALIDATION_TENSORS, validation)
    key = result_key(params.train, numerics.facts(), data=data, scripts=[Path(__file__)])
    checkpoint = hosts.checkpoint(paths.CHECKPOINTS, key)
    if hosts.rank:  # rank 0 alone writes results
        for _ in trainer.train(checkpoint):
            pass
        hosts.barrier()
        return
    with LiveCurves(paths.CURVES, paths.HISTORY) as curves:
        for history in trainer.train(checkpoint):
            curves.update(history)

        statistics, thresholds = ood.fit(trainer.state.model, train, validation)
        last = trainer.state.history[-1]
        unverified = ", ".join(trainer.unverified_ops)
        why_not = "numerics: fast" if params.train.numerics == "fast" else unverified
        portable = not why_not and not numerics.why_not_portable([])
        metrics = {
            "epochs": last.epoch,
            "portable": portable,
            "portable_to_arm": portable and not trainer.x86_only_ops,
            "train": {"loss": last.train_loss, "accuracy": last.train_accuracy},
            "validation": {"loss": last.validation_loss, "accuracy": last.validation_accuracy},
        }
        receipt = trainer.state.receipt.as_dict(params.train, data)
        with atomic_group():
            write_csv(paths.HISTORY, pd.DataFrame(trainer.state.history))
            write_json(paths.TRAIN_METRICS, metrics)
            write_json(paths.RECEIPT, receipt)
            card = replace(trainer.card, ood=thresholds)
            write_model(paths.MODEL, trainer.state.model, card, statistics)
    checkpoint.remove()
    hosts.barrier()
    if not portable:
        said = f"not portable ({why_not or 'this machine, see above'})"
    elif trainer.x86_only_ops:
        said = f"portable to x86-64, not to ARM ({', '.join(trainer.x86_only_ops)})"
    else:
        said = "portable"
    print(
        f"train: {last.epoch} epochs in {time.perf_counter() - start:.1f} s, validation accuracy "
        f"{last.validation_accuracy:.2%}, {said}{hosts.traffic}; {paths.MODEL}, epochs in "
        f"{paths.HISTORY}"
    )


if __name__ == "__main__":
    run_stage(main, __doc__)
