"""The table of the data sets, against what params.yaml may ask for."""

from typing import get_args

from image_pipeline.common.params import read_params
from image_pipeline.datasets import DATASETS
from image_pipeline.downloading.params import DownloadParams
from project import ROOT


def test_params_may_name_each_data_set_and_no_other() -> None:
    names = get_args(DownloadParams.model_fields["dataset"].annotation)
    assert tuple(DATASETS) == names
    params = read_params(ROOT / "params.yaml")
    for name, make in DATASETS.items():
        dataset = make(params)
        if name not in ("folder", "cifar10", "cifar100"):  # known once they have been read
            assert len(dataset.class_names) >= 2
