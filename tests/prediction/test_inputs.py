"""Which images the names on the command line stand for."""

import os
from collections import Counter
from pathlib import Path

import pytest

from image_pipeline.common.errors import DataError
from image_pipeline.prediction import inputs
from image_pipeline.prediction.inputs import NO_IMAGES, ImageInput, describe_skipped, find_inputs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with some files, the working directory."""
    monkeypatch.chdir(tmp_path)
    left_out = (".x.png", "in/@eaDir/c.jpg/thumb.jpg", "lost+found/x.png")
    for name in ("b.png", "a.PNG", "[1].png", "notes.txt", "in/c.jpg", "in/deep/d.gif", *left_out):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "empty").mkdir()
    return tmp_path


def found(*names: str) -> list[str]:
    return [each.name for each in find_inputs(names) if not each.error]


def test_files_folders_and_patterns(here: Path) -> None:
    assert found("b.png", "notes.txt") == ["b.png", "notes.txt"]  # whatever their names end in
    assert found("in") == ["in/c.jpg", "in/deep/d.gif"]
    assert found(str(here)) == [
        f"{here}/{name}" for name in ("[1].png", "a.PNG", "b.png", "in/c.jpg", "in/deep/d.gif")
    ]
    assert found("*.png") == ["[1].png", "b.png"]
    skipped: Counter[str] = Counter()
    assert len(list(find_inputs([str(here)], skipped))) == 5
    assert skipped == {".txt": 1}
    assert found("[1].png") == ["[1].png"]  # a file with exactly this name exists
    assert found("i?") == ["in/c.jpg", "in/deep/d.gif"]
    assert found("in/**/*.gif") == ["in/deep/d.gif"]


@pytest.mark.usefixtures("here")
def test_names_without_images_yield_errors_in_order() -> None:
    assert list(find_inputs(["gone.png", "b.png", "*.bmp", "empty"])) == [
        ImageInput("gone.png", error="no such file or folder"),
        ImageInput("b.png"),
        ImageInput("*.bmp", error="no file matches this pattern"),
        ImageInput("empty", error=NO_IMAGES),
    ]


def test_an_unreadable_file_gives_the_reason(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ImageInput("b.png").read() == b"b.png"
    (here / "link.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"^No such file or directory$"):
        ImageInput("link.png").read()
    monkeypatch.setattr(inputs, "MAX_BYTES", 4)
    for name in ("b.png", "/dev/zero"):
        with pytest.raises(DataError, match=r"^larger than "):
            ImageInput(name).read()


def test_a_pipe_is_read_to_its_end() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"image")
    os.close(writing)
    assert ImageInput(f"/dev/fd/{reading}").read() == b"image"
    os.close(reading)


def test_a_file_list(here: Path) -> None:
    (here / "list").write_bytes(b"b.png\r\n\nin/c.jpg\n\xff.png")
    assert list(inputs.read_file_list("list")) == ["b.png", "in/c.jpg", os.fsdecode(b"\xff.png")]
    with pytest.raises(DataError, match=r"^gone: cannot be read \(No such file or directory\)$"):
        list(inputs.read_file_list("gone"))


def test_one_file_that_was_left_out_is_described_in_the_singular() -> None:
    assert describe_skipped(Counter({".pdf": 1})) == (
        "1 file left out, whose name is not that of an image: .pdf (1); a file that you name is "
        "read whatever its suffix"
    )
