"""One training run of this project or a peer, timed epoch by epoch, in a process of its own.

    python benchmarks/learners.py NAME --seed 0 --epochs 15 [--until 0.98]

Every learner trains the 784-120-84-10 MLP (`cnn_*` and `resnet_*` those networks) on the same
training split and prints one JSON line per epoch: seconds of training so far (without imports,
reading the data and evaluation) and accuracy on the test split. `--until` ends the run at the first
epoch that reaches this accuracy. `transfer_plain` trains on photographs of its own, and prints the
last line alone. Environment: TENSORS is the folder of the splits (default: data/tensors); IMAGES
limits the training images, and skips evaluation.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

TENSORS = Path(os.environ.get("TENSORS", "data/tensors"))
RECIPES = Path("recipes")
IMAGES = int(os.environ.get("IMAGES", "0"))  # limit of the training images; 0: all
HIDDEN = (120, 84)
THREADS = 2

Run = Iterator[tuple[float, float]]


def ours(recipe: str, **changes: Any) -> Callable[[int, int], Run]:
    """Return this project's training with the params of recipes/`recipe`.yaml."""

    def run(seed: int, epochs: int) -> Run:
        from image_pipeline import numerics

        settings = read_recipe(recipe) | {"numerics": "portable"} | changes
        numerics.pin(settings["numerics"])

        from image_pipeline.modeling.inference import predict
        from image_pipeline.tensors.tensor_files import read_split
        from image_pipeline.training.checkpoint import CheckpointFile

        test = read_split(TENSORS / "test.safetensors")
        trainer = make_trainer(**settings | {"seed": seed} | ({"epochs": epochs} if IMAGES else {}))
        unused = CheckpointFile(Path("checkpoints"), "benchmark")
        spent, start = 0.0, time.perf_counter()
        for _ in trainer.train(unused):
            spent += time.perf_counter() - start
            if IMAGES:
                yield spent, 0.0
            else:
                batches = predict(trainer.state.model, test, trainer.card.data, 1000)
                correct = sum(int((logits.argmax(1) == labels).sum()) for logits, labels in batches)
                yield spent, correct / len(test.labels)
            start = time.perf_counter()

    return run


def read_recipe(name: str) -> dict[str, Any]:
    """Read the block `train` of recipes/`name`.yaml."""
    from ruamel.yaml import YAML

    settings: dict[str, Any] = YAML(typ="safe").load(RECIPES / f"{name}.yaml")["train"]
    return settings


def make_trainer(**changes: Any) -> Any:
    """Return a `Trainer` of the committed params with `changes`; call after `numerics.pin`."""
    from image_pipeline.common.params import read_params
    from image_pipeline.tensors.tensor_files import read_split
    from image_pipeline.training.params import TrainParams
    from image_pipeline.training.train import Trainer

    committed = read_params()
    values = committed.train.model_dump()
    every = changes.pop("checkpoint_every", 0)
    machine = committed.machine.model_copy(update={"checkpoint_every": every})
    augmentation = values["augmentation"] | changes.pop("augmentation", {})
    params = TrainParams.model_validate(values | changes | {"augmentation": augmentation})
    train, validation = (
        read_split(TENSORS / f"{name}.safetensors") for name in ("train", "validation")
    )
    if IMAGES:
        train = replace(train, images=train.images[:IMAGES], labels=train.labels[:IMAGES])
        validation = replace(validation, images=validation.images[:1], labels=validation.labels[:1])
    return Trainer(train, validation, params, machine)


def public(seed: int, epochs: int) -> Run:
    """The public recipe: a DataLoader that decodes every image, Adam at 1e-3, batches of 100."""
    import torch
    from torch import nn
    from torchvision import transforms

    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    dataset = _image_dataset("train", transforms.ToTensor())
    loader = torch.utils.data.DataLoader(dataset, batch_size=100, shuffle=True)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    images, labels = _arrays("test")
    test = torch.from_numpy(images).reshape(-1, 1, 28, 28) / 255
    spent = 0.0
    for _ in range(epochs):
        start = time.perf_counter()
        for batch, targets in loader:
            loss = criterion(model(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        spent += time.perf_counter() - start
        with torch.no_grad():
            correct = model(test).argmax(1) == torch.from_numpy(labels)
        yield spent, correct.double().mean().item()


def plain_resnet(seed: int, epochs: int) -> Run:
    """The same residual network and recipe in a plain loop: DataLoader, torchvision, torch alone.

    Images are augmented one by one, by LOADER_WORKERS processes; torch chooses its number of
    threads. Nothing is evaluated.
    """
    import torch
    from safetensors.numpy import load_file
    from torch.nn import functional
    from torchvision.transforms import v2

    from image_pipeline.models.resnet import Model

    torch.manual_seed(seed)
    recipe = read_recipe("resnet")
    tensors = load_file(TENSORS / "train.safetensors")
    images = torch.from_numpy(tensors["images"][: IMAGES or None])
    labels = torch.from_numpy(tensors["labels"][: IMAGES or None])
    augmentation = recipe["augmentation"]
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(augmentation["horizontal_flip"]),
            v2.RandomCrop(32, padding=augmentation["crop_padding"]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
        ]
    )

    class Photographs(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> Any:
            return transform(images[index]), labels[index]

    loader = torch.utils.data.DataLoader(
        Photographs(),
        batch_size=recipe["batch_size"],
        shuffle=True,
        num_workers=int(os.environ.get("LOADER_WORKERS", "0")),
    )
    model = Model((3, 32, 32), 10, **recipe["model"].get("resnet", {}))
    options = recipe["optimizer"].get(recipe["optimizer"]["name"], {})
    optimizer = getattr(torch.optim, recipe["optimizer"]["name"])(
        model.parameters(), lr=recipe["learning_rate"], **options
    )
    spent = 0.0
    for _ in range(epochs):
        start = time.perf_counter()
        for batch, targets in loader:
            loss = functional.cross_entropy(
                model(batch), targets, **recipe["loss"]["cross_entropy"]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        spent += time.perf_counter() - start
        yield spent, 0.0


def plain_transfer(seed: int, epochs: int) -> Run:
    """A frozen EfficientNet-Lite0 by the public tutorial's recipe, in a plain loop.

    The folder PHOTOGRAPHS has train/ and test/ with class folders, the file WEIGHTS the network's
    weights. As in the tutorial, the network is in training mode, so that batch norm's statistics
    move. Evaluates once, at the end; the tutorial does after each epoch, and takes the best.
    Source: Chilamkurthy, "Transfer Learning for Computer Vision Tutorial" (2017).
    """
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from image_pipeline.models.efficientnet_lite0 import Model, pretrained

    torch.manual_seed(seed)
    weights = pretrained()
    to_floats = (
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(weights.mean, weights.std),
    )
    changes = {
        "train": (v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()),
        "test": (v2.Resize(256), v2.CenterCrop(224)),
    }
    datasets = {
        split: ImageFolder(
            f"{os.environ['PHOTOGRAPHS']}/{split}", v2.Compose([*of_split, *to_floats])
        )
        for split, of_split in changes.items()
    }
    loaders = {
        split: DataLoader(
            dataset,
            batch_size=4,
            shuffle=split == "train",
            num_workers=int(os.environ.get("LOADER_WORKERS", "0")),
        )
        for split, dataset in datasets.items()
    }
    model = Model((3, 224, 224), len(datasets["train"].classes))
    layers = torch.load(os.environ["WEIGHTS"], weights_only=True)
    head = {f"_fc.{name}": value for name, value in model._fc.state_dict().items()}
    model.load_state_dict(layers | head)
    model.requires_grad_(False)._fc.requires_grad_(True)
    optimizer = torch.optim.SGD(model._fc.parameters(), lr=0.001, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1)
    start = time.perf_counter()
    for _ in range(epochs):
        for batch, targets in loaders["train"]:
            loss = functional.cross_entropy(model(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    spent = time.perf_counter() - start
    model.eval()
    correct = 0
    with torch.no_grad():
        for batch, targets in loaders["test"]:
            correct += int((model(batch).argmax(1) == targets).sum())
    yield spent, correct / len(datasets["test"])


def lightning(seed: int, epochs: int) -> Run:
    """The public recipe with PyTorch Lightning's Trainer."""
    import lightning as pl
    import torch
    from torch import nn
    from torchvision import transforms

    pl.seed_everything(seed, verbose=False)
    torch.set_num_threads(THREADS)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Flatten(), nn.Linear(784, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
                nn.Linear(84, 10),
            )  # fmt: skip

        def training_step(self, batch: Any, _: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    images, labels = _arrays("test")
    test = torch.from_numpy(images).reshape(-1, 1, 28, 28) / 255
    results: list[tuple[float, float]] = []

    class Clock(pl.Callback):
        spent = 0.0

        def on_train_epoch_start(self, *_: Any) -> None:
            self.start = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:  # noqa: ARG002
            self.spent += time.perf_counter() - self.start
            with torch.no_grad():
                correct = module.net(test).argmax(1) == torch.from_numpy(labels)
            results.append((self.spent, correct.double().mean().item()))

    dataset = _image_dataset("train", transforms.ToTensor())
    loader = torch.utils.data.DataLoader(dataset, batch_size=100, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Clock()],
    )  # fmt: skip
    trainer.fit(Module(), loader)
    yield from results


def sklearn(seed: int, epochs: int) -> Run:
    """scikit-learn's MLPClassifier with default settings, epoch by epoch."""
    from sklearn.neural_network import MLPClassifier

    images, labels = _arrays("train")
    test_images, test_labels = _arrays("test")
    images, test_images = images / 255, test_images / 255
    model = MLPClassifier(HIDDEN, random_state=seed, shuffle=True)
    spent = 0.0
    for _ in range(epochs):
        start = time.perf_counter()
        model.partial_fit(images, labels, classes=list(range(10)))
        spent += time.perf_counter() - start
        yield spent, float((model.predict(test_images) == test_labels).mean())


def keras(seed: int, epochs: int) -> Run:
    """Keras on TensorFlow: the same network, Adam at 1e-3, batches of 100, arrays in memory."""
    import keras as k

    k.utils.set_random_seed(seed)
    images, labels = _arrays("train")
    test_images, test_labels = _arrays("test")
    images, test_images = images / 255, test_images / 255
    layers = [k.layers.Dense(size, activation="relu") for size in HIDDEN]
    model = k.Sequential([k.Input((784,)), *layers, k.layers.Dense(10)])
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=k.optimizers.Adam(1e-3), loss=loss)
    spent = 0.0
    for _ in range(epochs):
        start = time.perf_counter()
        model.fit(images, labels, batch_size=100, verbose=0)
        spent += time.perf_counter() - start
        predicted = model.predict(test_images, batch_size=1000, verbose=0).argmax(1)
        yield spent, float((predicted == test_labels).mean())


def _arrays(split: str) -> tuple[Any, Any]:
    """Read a split: images float32 `[N, 784]`, values 0 to 255, and labels int64."""
    import numpy as np
    from safetensors.numpy import load_file

    tensors = load_file(TENSORS / f"{split}.safetensors")
    return tensors["images"].reshape(-1, 784).astype(np.float32), tensors["labels"]


def _image_dataset(split: str, transform: Any) -> Any:
    """Return the split like torchvision's MNIST class: each access creates a PIL image."""
    from PIL import Image
    from safetensors.numpy import load_file
    from torch.utils.data import Dataset

    tensors = load_file(TENSORS / f"{split}.safetensors")
    images, labels = tensors["images"][:, 0], tensors["labels"].tolist()

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.fromarray(images[index], mode=None)), labels[index]

    return Images()


LEARNERS: dict[str, Callable[[int, int], Run]] = {
    "fast_97_5": ours("quick_97_5", numerics="fast"),
    "fast_98_0": ours("quick_98_0", numerics="fast"),
    "portable_97_5": ours("quick_97_5"),
    "portable_98_0": ours("quick_98_0"),
    "best": ours("best"),
    "cnn_quick": ours("cnn_quick"),
    "cnn_quick_fast": ours("cnn_quick", numerics="fast"),
    "cnn_best": ours("cnn_best"),
    "resnet_portable": ours("resnet"),
    "resnet_fast": ours("resnet", numerics="fast"),
    "resnet_plain": plain_resnet,
    "transfer_plain": plain_transfer,
    "public": public,
    "lightning": lightning,
    "sklearn": sklearn,
    "keras": keras,
}


def main() -> None:
    """Run a learner."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=LEARNERS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--until", type=float, default=1.1)
    arguments = parser.parse_args()
    for seconds, accuracy in LEARNERS[arguments.name](arguments.seed, arguments.epochs):
        print(json.dumps({"seconds": seconds, "accuracy": accuracy}), flush=True)
        if accuracy >= arguments.until:
            break


if __name__ == "__main__":
    main()
