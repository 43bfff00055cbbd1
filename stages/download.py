"""Fetch the data set named by `download.dataset` into data/raw/, and check every byte of it.

DATASET_MIRROR (an http(s) address or a local folder) is tried first if it is set; it changes where
the bytes come from, never which bytes are accepted.
"""

import os

from image_pipeline.common.stage import run_stage


def main() -> None:
    # Here, not at the top: run_stage takes care of Ctrl-C and of errors first.
    from image_pipeline.common import paths
    from image_pipeline.common.params import read_params
    from image_pipeline.downloading.dataset import load_dataset

    params = read_params()
    dataset = load_dataset(params.download.dataset)
    dataset.fetch(paths.RAW, os.environ.get("DATASET_MIRROR"), params)
    print(f"download: {params.download.dataset} is in {paths.RAW}, every file checked")


if __name__ == "__main__":
    run_stage(main, __doc__)
