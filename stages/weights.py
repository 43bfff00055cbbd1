"""Fetch the weights that training starts from into data/weights/, and check every byte of them.

They are those that the network's file names (`train.model.<name>.pretrained: true`), or a file of
your own (`weights.path`). Otherwise training starts from random weights.
"""

import os

from image_pipeline.common.stage import run_stage


def main() -> None:
    # Here, not at the top: run_stage takes care of Ctrl-C and of errors first.
    from image_pipeline.common import paths
    from image_pipeline.common.params import read_params
    from image_pipeline.pretrained.fetch import copy_own, fetch_nothing, fetch_published

    params = read_params()
    model = params.train.model
    if params.weights.path:
        weights = copy_own(params.weights, paths.WEIGHTS)
    elif model.pretrained:
        mirror = os.environ.get("DATASET_MIRROR")
        weights = fetch_published(model.name, model.options, paths.WEIGHTS, mirror)
    else:
        fetch_nothing(paths.WEIGHTS)
        print("weights: none, training starts from random ones")
        return
    print(f"weights: {weights.name} ({weights.license}), checked; in {paths.WEIGHTS}")


if __name__ == "__main__":
    run_stage(main, __doc__)
