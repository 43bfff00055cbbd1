"""Image files and models for the tests of `predict`."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from image_pipeline.modeling import networks
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.modeling.model_file import write_model
from image_pipeline.modeling.ood import TrainingStatistics
from image_pipeline.tensors.tensor_files import DatasetInfo

DIGITS = tuple("0123456789")


def make_card(
    dataset: str = "digits",
    shape: tuple[int, int, int] = (1, 28, 28),
    class_names: tuple[str, ...] = DIGITS,
    **changes: Any,
) -> ModelCard:
    statistics = (0.1,) * shape[0], (0.3,) * shape[0]
    return ModelCard(
        network="mlp",
        source=networks.source_hash("mlp"),
        input_shape=shape,
        data=DatasetInfo(
            dataset,
            class_names,
            *statistics,
            changes.pop("fit", "pad"),
            crop_fraction=changes.pop("crop_fraction", 1.0),
        ),
        augmentation={},
        options={"hidden_sizes": [16]},
        **changes,
    )


def make_model(path: Path, card: ModelCard | None = None) -> Path:
    """Write a model with random weights."""
    card = card or make_card()
    torch.manual_seed(0)
    model = networks.build(card.network, card.options, card.input_shape, len(card.data.class_names))
    statistics = TrainingStatistics(*np.zeros((2, *card.input_shape), np.uint8))
    write_model(path, model, card, statistics)
    return path


def image_file(pixels: np.ndarray, file_format: str = "PNG", **options: Any) -> bytes:
    """Encode uint8 `[H, W]` or `[H, W, 3]` as an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def digit_files(folder: Path, count: int) -> np.ndarray:
    """Write white noise on black as 00000.png, 00001.png, ...; return uint8 `[count, 28, 28]`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 4:24, 4:24] = rng.integers(0, 2, (count, 20, 20)) * rng.integers(
        0, 256, (count, 20, 20)
    )
    for number, image in enumerate(images):
        (folder / f"{number:05}.png").write_bytes(image_file(image))
    return images


def png_of_size(width: int, height: int) -> bytes:
    """Return a small PNG file whose header claims a size of `width` x `height` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(width + 1))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b""))
    )
