"""The data sets by name. A new one is a module here that implements `Dataset`, and a line below."""

from image_pipeline.datasets.base import Dataset
from image_pipeline.datasets.digits import Digits
from image_pipeline.datasets.mnist import FASHION_MNIST, KMNIST, MNIST

DATASETS: dict[str, Dataset] = {
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "kmnist": KMNIST,
    "digits": Digits(),
}
