"""Where the data sets come from, and under which licences, for the model card.

Licences are identifiers of the Hugging Face Hub; `unknown` if the authors state none. Looked up in
October 2026 on each data set's own page, unless `license_source` names another.
"""

from dataclasses import dataclass

from image_pipeline.common.schema import Bits

MNIST_FORMAT = (
    "One digit, light on black, scaled to fit 20 x 20 pixels with its proportions kept, its centre "
    "of mass in the middle of the image."
)


@dataclass(frozen=True)
class DatasetProvenance:
    """Authors, licence and content of a data set.

    Attributes:
        title: its name, as its authors write it.
        subject: what the images show, in a few words.
        authors: who made it.
        homepage: URL; empty if there is none.
        license: the Hub's identifier.
        license_source: who states the licence; empty if the authors' own page does.
        image_format: what an image must look like for the model to work, in whole sentences.
        hub_id: identifier of the authors' own copy on the Hub; empty if there is none.
    """

    title: str
    subject: str
    authors: str
    homepage: str
    license: str
    license_source: str
    image_format: str
    hub_id: str = ""


CHANNELS = {1: "grey", 3: "red, green and blue"}

PROVENANCE = {
    "mnist": DatasetProvenance(
        "MNIST",
        "handwritten digits",
        "Yann LeCun, Corinna Cortes and Christopher J. C. Burges",
        "http://yann.lecun.com/exdb/mnist/",
        "cc-by-sa-3.0",
        "Keras's documentation",
        MNIST_FORMAT,
        "ylecun/mnist",
    ),
    "fashion_mnist": DatasetProvenance(
        "Fashion-MNIST",
        "photographs of clothes",
        "Han Xiao, Kashif Rasul and Roland Vollgraf (Zalando)",
        "https://github.com/zalandoresearch/fashion-mnist",
        "mit",
        "",
        "One piece of clothing, light on black, its longer side 28 pixels.",
        "zalando-datasets/fashion_mnist",
    ),
    "kmnist": DatasetProvenance(
        "Kuzushiji-MNIST",
        "cursive Japanese characters",
        "CODH, adapted from the Kuzushiji Dataset of NIJL and others",
        "https://github.com/rois-codh/kmnist",
        "cc-by-sa-4.0",
        "",
        "One character, light on black.",
    ),
    "emnist": DatasetProvenance(
        "EMNIST",
        "handwritten letters and digits",
        "Gregory Cohen, Saeed Afshar, Jonathan Tapson and Andre van Schaik",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        "unknown",
        "",
        "One letter or digit, upright, light on black, in the middle, with a border of two pixels.",
    ),
    "qmnist": DatasetProvenance(
        "QMNIST",
        "handwritten digits",
        "Chhavi Yadav and Leon Bottou",
        "https://github.com/facebookresearch/qmnist",
        "bsd-3-clause",
        "",
        MNIST_FORMAT,
    ),
    "usps": DatasetProvenance(
        "USPS",
        "handwritten digits from envelopes",
        "Jonathan J. Hull",
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html",
        "unknown",
        "",
        "One digit, light on black, filling the image.",
    ),
    "cifar10": DatasetProvenance(
        "CIFAR-10",
        "photographs of animals and vehicles",
        "Alex Krizhevsky, Vinod Nair and Geoffrey Hinton",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "unknown",
        "",
        "A photograph whose main object fills the image.",
        "uoft-cs/cifar10",
    ),
    "cifar100": DatasetProvenance(
        "CIFAR-100",
        "photographs of objects, animals, plants and people",
        "Alex Krizhevsky, Vinod Nair and Geoffrey Hinton",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "unknown",
        "",
        "A photograph whose main object fills the image.",
        "uoft-cs/cifar100",
    ),
    "digits": DatasetProvenance(
        "Optical Recognition of Handwritten Digits",
        "handwritten digits, originally 8 x 8 pixels",
        "Ethem Alpaydin and Cenk Kaynak",
        "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        "cc-by-4.0",
        "the UCI Machine Learning Repository",
        MNIST_FORMAT,
    ),
}


def get_provenance(dataset: str) -> DatasetProvenance:
    """Return a data set's provenance; for an unknown one, what holds for any."""
    title = "custom images" if dataset == "folder" else dataset
    return PROVENANCE.get(dataset) or DatasetProvenance(
        title, title, "not stated", "", "other", "", "An image like the training images."
    )


def describe_pixels(shape: tuple[int, int, int], bits: Bits) -> str:
    """Describe images of a shape (channels, height, width) in words.

    Args:
        shape: of the network's input.
        bits: of the values in 16-bit image files, as in `DatasetInfo`.
    """
    channels, height, width = shape
    colours = CHANNELS.get(channels, f"{channels} channels")
    white = f" (in a 16-bit image file: {(1 << bits) - 1})" if bits < 16 else ""
    return f"{colours}, {height} pixels high and {width} wide, 0 (black) to 255{white}"
