"""Turn the files in data/raw/ into data/tensors/{train,validation,test}.safetensors.

Each holds uint8 images [N, C, H, W], int64 labels [N], the class names, and the training split's
mean and standard deviation. The test split is the data set's own and is left as it is.
plots/data.csv says what is in them. A warning counts test images that are also in other splits.
"""

import sys

from image_pipeline.common.stage import run_stage


def main() -> None:
    # Here, not at the top: run_stage takes care of Ctrl-C and of errors first.
    from image_pipeline.common import paths
    from image_pipeline.common.params import read_params
    from image_pipeline.downloading.dataset import load_dataset
    from image_pipeline.tensorizing.data_report import leak_warning
    from image_pipeline.tensorizing.tensorize import tensorize

    params = read_params()
    table = tensorize(
        load_dataset(params.download.dataset).read(paths.RAW, params),
        params.download.dataset,
        params.tensorize.validation_fraction,
        params.tensorize.seed,
        (paths.TRAIN_TENSORS, paths.VALIDATION_TENSORS, paths.TEST_TENSORS),
        paths.DATA_METRICS,
        paths.CLASS_BALANCE,
        paths.DATA_TABLE,
    )
    listed = ", ".join(f"{count} {name}" for name, count in table["images"].items())
    print(f"tensorize: {listed} images are in {paths.TENSORS}; more in {paths.DATA_TABLE}")
    if warning := leak_warning(table, str(paths.DATA_TABLE)):
        print(warning, file=sys.stderr)


if __name__ == "__main__":
    run_stage(main, __doc__)
