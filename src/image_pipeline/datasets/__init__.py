"""The data sets by name. A new one is a module here that implements `Dataset`, and a line below.

Each is built from the params, of which it takes the settings that it needs: `fetch` may use those
of the block `download`, `read` those of `tensorize`.
"""

from collections.abc import Callable

from image_pipeline.common.params import Params
from image_pipeline.datasets.base import Dataset
from image_pipeline.datasets.cifar import CIFAR10, CIFAR100
from image_pipeline.datasets.digits import Digits
from image_pipeline.datasets.emnist import Emnist
from image_pipeline.datasets.folder import Folder
from image_pipeline.datasets.mnist import FASHION_MNIST, KMNIST, MNIST
from image_pipeline.datasets.qmnist import Qmnist
from image_pipeline.datasets.usps import Usps

DATASETS: dict[str, Callable[[Params], Dataset]] = {
    "mnist": lambda _: MNIST,
    "fashion_mnist": lambda _: FASHION_MNIST,
    "kmnist": lambda _: KMNIST,
    "emnist": lambda params: Emnist(params.tensorize.emnist_split),
    "qmnist": lambda _: Qmnist(),
    "usps": lambda _: Usps(),
    "cifar10": lambda _: CIFAR10,
    "cifar100": lambda _: CIFAR100,
    "digits": lambda _: Digits(),
    "folder": lambda params: Folder(
        params.download.folder, params.tensorize.folder, params.tensorize.seed
    ),
}
