"""The plot stage: what it draws, and invalid tables, models and tensors that it rejects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_pipeline.common import paths
from image_pipeline.common.params import read_params
from image_pipeline.modeling import networks
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.modeling.model_file import read_model, write_model
from image_pipeline.plotting import report
from image_pipeline.plotting.params import PlotParams
from image_pipeline.plotting.report import _read_table, draw_report
from image_pipeline.plotting.saliency import saliency_map
from image_pipeline.tensorizing.data_report import SPLITS
from image_pipeline.tensors.tensor_files import DatasetInfo, open_split_writer
from project import ROOT
from refusals import damaged, quick, refusal, valid_or_refused

DATA = DatasetInfo("toy", ("cat", "dog", "fox"), (0.5,), (0.25,))
OTHER_DATA = DatasetInfo("toy", ("cat", "dog", "cow"), (0.5,), (0.25,))
AUGMENTATION = read_params(ROOT / "params.yaml").train.augmentation.model_dump()
BAD = AUGMENTATION | {"rotation": -1}
PARAMS = PlotParams(dpi=50, mistakes=2, samples=2, seed=0)
PREDICTIONS = "actual,predicted,confidence\ncat,cat,0.9\nfox,dog,0.8\ndog,dog,0.7\nfox,fox,0.6\n"
CLASSES = "class,images,precision,recall,f1\ncat,1,1,1,1.0\ndog,1,0.5,1,0.7\nfox,2,1,0.5,0.7\n"
RELIABILITY = "confidence,accuracy,perfect,images\n0.75,0.75,0.75,4\n"
BALANCE = "class,split,images\n" + "".join(
    f"{name},{split},{n}\n" for name in DATA.class_names for n, split in enumerate(SPLITS)
)
SPLIT_TABLE = "split,images,leaked,in_test\ntrain,4,0,1\nvalidation,3,1,0\ntest,4,1,\n"
HISTORY = "epoch,train_loss,validation_loss,train_accuracy,validation_accuracy\n1,0.9,0.8,0.7,0.6\n"
COLUMNS = report.TABLES[paths.PREDICTIONS]
TABLES = {
    paths.PREDICTIONS: PREDICTIONS,
    paths.CLASSES: CLASSES,
    paths.RELIABILITY: RELIABILITY,
    paths.CLASS_BALANCE: BALANCE,
    paths.DATA_TABLE: SPLIT_TABLE,
    paths.HISTORY: HISTORY,
}


def write_inputs(
    images: tuple[int, ...] = (4, 1, 2, 3),
    data: DatasetInfo = DATA,
    network: str = "mlp",
    options: dict[str, Any] | None = None,
    shape: tuple[int, int, int] = (1, 2, 3),
    augmentation: dict[str, Any] = AUGMENTATION,
) -> None:
    """Write the stage's inputs to the current folder."""
    options = {"hidden_sizes": [4]} if options is None else options
    torch.manual_seed(1)
    model = networks.build(network, options, shape, len(DATA.class_names))
    card = ModelCard(
        network=network,
        source=networks.source_hash(network),
        input_shape=shape,
        data=DATA,
        augmentation=augmentation,
        options=options,
        first_layer=networks.first_layer(model, shape),
    )
    write_model(paths.MODEL, model, card)
    pixels = np.zeros(images, np.uint8)
    labels = np.zeros(images[0], np.int64)
    for path in (paths.TRAIN_TENSORS, paths.TEST_TENSORS):
        sizes: Any = images[1:]
        with open_split_writer(path, len(labels), sizes, "toy", data.class_names) as writer:
            writer.append(pixels, labels)
            writer.finish(data)
    for path, text in TABLES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables") / "table.csv"


def error_of(path: Path) -> str:
    """Return the error about the file at `path`; no plot may have been drawn."""
    message = refusal(path, lambda _: draw_report(PARAMS))
    assert not list(paths.PLOTS.glob("*.png"))
    return message


def test_valid_inputs_become_ten_plots() -> None:
    write_inputs()
    drawn = draw_report(PARAMS)
    assert sorted(path.name for path in paths.PLOTS.glob("*.png")) == sorted(drawn)
    assert len(drawn) == 10
    with Image.open(paths.PLOTS / "class_balance.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
    assert (208, 0, 0) in colours  # the title: the test split leaks


@pytest.mark.parametrize(
    ("network", "options", "shape"),
    [
        ("mlp", {"hidden_sizes": []}, (3, 1, 13, 14)),
        ("mlp", {"hidden_sizes": [7]}, (7, 1, 13, 14)),
        ("cnn", {"filters": [5, 2], "hidden_sizes": []}, (5, 1, 5, 5)),
    ],
)
def test_the_first_layer_is_drawn(
    network: str,
    options: dict[str, Any],
    shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[np.ndarray] = []
    monkeypatch.setattr(report, "draw_first_layer", lambda _, weights, __: drawn.append(weights))
    write_inputs((4, 1, 13, 14), network=network, options=options, shape=(1, 13, 14))
    draw_report(PARAMS)
    assert drawn[0].shape == shape
    model, _ = read_model(paths.MODEL)
    first = next(model.parameters())
    assert np.array_equal(drawn[0].ravel(), first.detach().contiguous().numpy().ravel())


def test_without_a_first_layer_the_plot_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "first_layer", lambda *_: None)
    write_inputs()
    assert "first_layer.png" in draw_report(PARAMS)
    assert (paths.PLOTS / "first_layer.png").stat().st_size > 1000


NO_NUMBER = "could not convert string to float: "
NO_MATCH = "its rows do not match the classes of models/model.safetensors"
OTHER_COUNT = "rows for the 4 images of data/tensors/test.safetensors"
# What is put in place of what, in a table that is right; None: of all of it.
BAD_TABLES: dict[str, tuple[Path, str | None, str | bytes, str]] = {
    "empty": (paths.PREDICTIONS, None, "", "confidence (No columns to parse from file)"),
    "a header": (paths.PREDICTIONS, None, "actual,predicted,confidence\n", f"0 {OTHER_COUNT}"),
    "no confidence": (paths.PREDICTIONS, "conf", "x", "expected but not found: ['confidence'])"),
    "nothing known": (paths.CLASSES, None, "a\n1\n", "not a table of class, f1 (Usecols do not m"),
    "text for a number": (paths.PREDICTIONS, "0.8", "high", f"confidence ({NO_NUMBER}'high')"),
    "no number": (paths.PREDICTIONS, "0.8", "", f"confidence ({NO_NUMBER}'')"),
    "NaN": (paths.PREDICTIONS, "0.8", "nan", "not a table of actual, "),
    "infinite": (paths.PREDICTIONS, "0.8", "inf", "confidence must be numbers"),
    "more than all": (paths.PREDICTIONS, "0.8", "1.8", "confidence must be numbers"),
    "negative images": (paths.RELIABILITY, ",4", ",-4", "images must be numbers from 0 to 1e+15"),
    "no images": (paths.RELIABILITY, ",4", ",0", "no images in any bin"),
    "a score above 1": (paths.CLASSES, "1.0", "7", "f1 must be numbers from 0"),
    "long rows": (paths.PREDICTIONS, "\ncat,cat", "\ncat,cat,dog", f"({NO_NUMBER}'dog')"),
    "an open quote": (paths.PREDICTIONS, "fox,fox", '"fox,fox', "not a table of "),
    "another encoding": (paths.PREDICTIONS, None, PREDICTIONS.encode("utf-16"), "not a table of "),
    "half a character": (paths.PREDICTIONS, None, b"\xff,a,1", "not a table of "),
    "a row too few": (paths.PREDICTIONS, "cat,cat,0.9\n", "", f"3 {OTHER_COUNT}"),
    "a row too many": (paths.PREDICTIONS, "0.6\n", "0.6\ncat,cat,0.9\n", f"5 {OTHER_COUNT}"),
    "an unknown class": (paths.PREDICTIONS, "x,dog", "x,\x1bcow", r"'\x1bcow' is not a class of m"),
    "an unknown truth": (paths.PREDICTIONS, "fox,dog", ",dog", "'' is not a class of models/m"),
    "a class missing": (paths.CLASSES, "dog,1,0.5,1,0.7\n", "", NO_MATCH),
    "a split missing": (paths.CLASS_BALANCE, "dog,test,2\n", "", f"{NO_MATCH} and the splits"),
    "a balance in words": (paths.CLASS_BALANCE, "test,2", "test,two", f"images ({NO_NUMBER}'two')"),
    "another split": (paths.DATA_TABLE, "\ntest", "\ntrain", f"{NO_MATCH} and the splits"),
    "no leaks counted": (paths.DATA_TABLE, "4,1,", "4,,", f"split, images, leaked ({NO_NUMBER}'')"),
}
STAGES = {
    **dict.fromkeys((paths.CLASS_BALANCE, paths.DATA_TABLE), "tensorize"),
    **dict.fromkeys((paths.HISTORY, paths.MODEL), "train"),
}


def remedy(path: Path) -> str:
    return f"; run `dvc repro --force {STAGES.get(path, 'evaluate')}` to recreate it"


@pytest.mark.parametrize("name", BAD_TABLES)
def test_invalid_tables(name: str) -> None:
    write_inputs()
    path, old, new, cause = BAD_TABLES[name]
    if isinstance(new, str):
        new = TABLES[path].replace(old or TABLES[path], new).encode()
    path.write_bytes(new)
    message = error_of(path)
    assert cause in message
    assert message.endswith(remedy(path))


@pytest.mark.parametrize("path", report.TABLES)
def test_a_missing_table_and_a_folder(path: Path) -> None:
    write_inputs()
    path.unlink()
    assert error_of(path) == f"not found; run `dvc repro {STAGES.get(path, 'evaluate')}`"
    path.mkdir()
    columns = ", ".join(report.TABLES[path])
    assert error_of(path) == f"not a table of {columns} (Is a directory){remedy(path)}"


@pytest.mark.parametrize(
    ("inputs", "path", "said"),
    [
        ({"data": OTHER_DATA}, paths.TEST_TENSORS, "its classes differ from the model's; run `dvc"),
        ({"augmentation": BAD}, paths.MODEL, "invalid augmentation (Input should be greater than"),
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, Any], path: Path, said: str) -> None:
    write_inputs(**inputs)
    assert error_of(path).startswith(said)
    assert path.is_file()


@pytest.mark.parametrize("name", ["output.bias", "output.weight", "nothing"])
def test_a_first_layer_that_cannot_be_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "first_layer", lambda *_: name)
    write_inputs()
    said = f"its first layer does not match its metadata{remedy(paths.MODEL)}"
    assert error_of(paths.MODEL) == said


@pytest.mark.parametrize(
    ("network", "options", "method"),
    [
        ("mlp", {"hidden_sizes": [7]}, "gradient x input"),
        ("cnn", {"filters": [5, 2]}, "HiResCAM of the layer convolutions.0"),  # the last is a pixel
    ],
)
def test_mistakes_are_explained_by_what_speaks_for_the_class_predicted(
    network: str,
    options: dict[str, Any],
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(report, "draw_saliency", lambda *arguments: drawn.extend(arguments))
    write_inputs((4, 1, 13, 14), network=network, options=options, shape=(1, 13, 14))
    draw_report(PARAMS)
    path, images, maps, captions, title, dpi = drawn
    assert (path.name, dpi) == ("saliency.png", 50)
    assert captions == ["fox taken for\ndog at 80.0%"]
    assert title == f"Where it looked: red speaks for the class predicted\n({method})"
    model, card = read_model(paths.MODEL)
    heat, _ = saliency_map(model, images[0], DATA.class_names.index("dog"), card.data)
    assert np.array_equal(maps, heat[None])
    assert maps.shape == (1, 13, 14)
    assert maps.any()


ANY = st.binary(max_size=200)
TEXT = PREDICTIONS.encode()


@settings(quick, max_examples=300)
@given(content=ANY | ANY.map(b"actual,predicted,confidence\n".__add__) | damaged(TEXT))
def test_any_table(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    valid_or_refused(file, lambda: _read_table(file, COLUMNS))
