"""Preprocessing of an image file in the way that the model card describes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from image_pipeline.common.errors import ParamsError
from image_pipeline.common.schema import Fit
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.prediction.preprocessing import Preprocessed, Preprocessor
from image_pipeline.reading.pixels import PixelSettings, decode, decode_whole
from prediction.prediction_files import image_file, make_card

RNG = np.random.default_rng(0)
PHOTOGRAPH = image_file(RNG.integers(0, 256, (40, 90, 3), np.uint8), "JPEG")
CLOTHES = ("shirt", "shoe")


@pytest.mark.parametrize(("fit", "fraction"), [("pad", 1.0), ("crop", 1.0), ("crop", 0.5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_as_trained_processes_images_as_tensorize_does(
    fit: Fit, fraction: float, channels: int
) -> None:
    card = make_card("folder", (channels, 32, 32), CLOTHES, fit=fit, crop_fraction=fraction)
    prepared = Preprocessor.for_model(card)(PHOTOGRAPH)
    settings = PixelSettings(channels, 32, fit, crop_fraction=fraction)
    assert prepared == Preprocessed(decode(PHOTOGRAPH, settings)[0], "as-trained")


def test_16_bits_are_scaled_as_in_the_training_set() -> None:
    wide = np.zeros((32, 32), np.uint16)
    wide[:16] = 900
    card = make_card("folder", (1, 32, 32), CLOTHES)
    card = replace(card, data=replace(card.data, bits=12))
    read = ModelCard.from_metadata(Path("model"), card.to_metadata())
    assert set(Preprocessor.for_model(read)(image_file(wide)).pixels) == {
        0,
        round(900 * 255 / 4095),
    }
    with pytest.raises(ValueError, match=r"^its values reach 4500, those of the training images o"):
        Preprocessor.for_model(read)(image_file(wide * 5))


def test_mode_mnist_is_for_models_of_digits_only() -> None:
    for card in (
        make_card("fashion_mnist", class_names=tuple("abcdefghij")),
        make_card("folder"),
        make_card("usps", (1, 16, 16)),
        make_card("emnist", class_names=tuple("0123456789abc")),
    ):
        with pytest.raises(ParamsError, match=r"^--prepare mnist: the model was trained on "):
            Preprocessor.for_model(card, "mnist")
        assert Preprocessor.for_model(card, "auto").mode == "as-trained"
    for dataset in ("mnist", "qmnist", "emnist", "digits"):
        assert Preprocessor.for_model(make_card(dataset), "mnist").mode == "mnist"


@pytest.mark.parametrize("shape", [(2, 28, 28), (1, 28, 14)])
def test_unsupported_image_shapes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ParamsError, match=r"the model takes images of shape \("):
        Preprocessor.for_model(make_card("folder", shape))


def test_auto_keeps_images_in_mnists_format() -> None:
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 12:16] = 250
    digit[20:24, 8:20] = 250
    auto = Preprocessor.for_model(make_card())
    for content in (image_file(digit), image_file(np.stack([digit] * 3, axis=-1))):
        assert auto(content) == Preprocessed(digit.tobytes(), "as-trained")
    dark_on_light = image_file(np.kron(255 - digit, np.ones((9, 9), np.uint8)))
    prepared = auto(dark_on_light)
    assert (prepared.mode, prepared.doubts) == ("mnist", ())
    converted = np.frombuffer(prepared.pixels, np.uint8).reshape(28, 28)
    assert converted[0].max() < 50 < 200 < converted.max()  # light on dark
    assert Preprocessor.for_model(make_card(), "as-trained")(dark_on_light).mode == "as-trained"


def test_decode_whole_keeps_proportions_and_colour() -> None:
    grey = np.repeat(np.arange(200, dtype=np.uint8)[:, np.newaxis], 50, axis=1)
    assert np.array_equal(decode_whole(image_file(grey), 300), grey)
    assert decode_whole(image_file(grey), 100).shape == (100, 25)
    assert decode_whole(image_file(np.stack([grey] * 3, axis=-1)), 300).shape == (200, 50)
    large = np.zeros((2000, 1000, 3), np.uint8)
    large[..., 0] = 255
    reduced = decode_whole(image_file(large, "JPEG"), 500)
    assert reduced.shape == (500, 250, 3)
    assert reduced[250, 125].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize(("ink", "ground"), [(255, 0), (230, 0), (0, 255), (120, 255)])
def test_decode_whole_puts_transparent_pixels_on_what_shows_the_others(
    ink: int, ground: int
) -> None:
    pixels = np.full((20, 20, 4), ink, np.uint8)
    pixels[..., 3] = np.repeat([0, 255], 10)
    assert decode_whole(image_file(pixels), 20)[0].tolist() == [ground] * 10 + [ink] * 10
