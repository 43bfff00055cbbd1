"""Where the training images come from, and what their authors allow, for the page on the model.

A licence is the identifier that Hugging Face's Hub knows it by; `unknown` where the authors state
none. Looked up in October 2026 on each data set's own page, except where `stated_by` says else.
"""

from dataclasses import dataclass

IN_A_BOX = (
    "One digit, light on black, fitted into 20 x 20 pixels with its proportions kept, with its "
    "centre of mass in the middle of the image."
)


@dataclass(frozen=True)
class Source:
    """What there is to say of a data set.

    Attributes:
        title: its name, as its authors write it.
        what: the images, in a few words.
        authors: who made it.
        homepage: its address; empty if it has none.
        license: the Hub's identifier.
        stated_by: who says so, where it is not the authors' page; empty where it is.
        form: how an image looks that the model has a chance with, in whole sentences.
        hub: its name among the Hub's data sets, where it is there under its authors' name.
    """

    title: str
    what: str
    authors: str
    homepage: str
    license: str
    stated_by: str
    form: str
    hub: str = ""


COLOURS = {1: "grey", 3: "red, green and blue"}  # channels in words

SOURCES = {
    "mnist": Source(
        "MNIST",
        "handwritten digits",
        "Yann LeCun, Corinna Cortes and Christopher J. C. Burges",
        "http://yann.lecun.com/exdb/mnist/",
        "cc-by-sa-3.0",
        "Keras's documentation",
        IN_A_BOX,
        "ylecun/mnist",
    ),
    "fashion_mnist": Source(
        "Fashion-MNIST",
        "photographs of clothes",
        "Han Xiao, Kashif Rasul and Roland Vollgraf (Zalando)",
        "https://github.com/zalandoresearch/fashion-mnist",
        "mit",
        "",
        "One piece of clothing, light on black, its longer side 28 pixels.",
        "zalando-datasets/fashion_mnist",
    ),
    "kmnist": Source(
        "Kuzushiji-MNIST",
        "cursive Japanese characters",
        "CODH, adapted from the Kuzushiji Dataset of NIJL and others",
        "https://github.com/rois-codh/kmnist",
        "cc-by-sa-4.0",
        "",
        "One character, light on black.",
    ),
    "emnist": Source(
        "EMNIST",
        "handwritten letters and digits",
        "Gregory Cohen, Saeed Afshar, Jonathan Tapson and Andre van Schaik",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        "unknown",
        "",
        "One letter or digit, upright, light on black, in the middle, with a border of two pixels.",
    ),
    "qmnist": Source(
        "QMNIST",
        "handwritten digits",
        "Chhavi Yadav and Leon Bottou",
        "https://github.com/facebookresearch/qmnist",
        "bsd-3-clause",
        "",
        IN_A_BOX,
    ),
    "usps": Source(
        "USPS",
        "handwritten digits from envelopes",
        "Jonathan J. Hull",
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html",
        "unknown",
        "",
        "One digit, light on black, that fills the image.",
    ),
    "cifar10": Source(
        "CIFAR-10",
        "photographs of animals and vehicles",
        "Alex Krizhevsky, Vinod Nair and Geoffrey Hinton",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "unknown",
        "",
        "A photograph whose main thing fills it.",
        "uoft-cs/cifar10",
    ),
    "cifar100": Source(
        "CIFAR-100",
        "photographs of many things",
        "Alex Krizhevsky, Vinod Nair and Geoffrey Hinton",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "unknown",
        "",
        "A photograph whose main thing fills it.",
        "uoft-cs/cifar100",
    ),
    "digits": Source(
        "Optical Recognition of Handwritten Digits",
        "handwritten digits, once 8 x 8 pixels",
        "Ethem Alpaydin and Cenk Kaynak",
        "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        "cc-by-4.0",
        "the UCI Machine Learning Repository",
        IN_A_BOX,
    ),
}


def source_of(dataset: str) -> Source:
    """Return what there is to say of a data set; of one that is not known, what holds of any."""
    own = "images of one's own" if dataset == "folder" else dataset
    return SOURCES.get(dataset) or Source(
        own, own, "not stated", "", "other", "", "An image like those it was trained on."
    )


def images_in_words(shape: tuple[int, int, int]) -> str:
    """Say what an image of a shape (channels, height, width) is."""
    channels, height, width = shape
    colours = COLOURS.get(channels, f"{channels} channels")
    return f"{colours}, {height} pixels high and {width} wide, 0 (black) to 255"
