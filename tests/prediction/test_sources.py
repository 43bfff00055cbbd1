"""What the names on the command line stand for."""

import os
from pathlib import Path

import pytest

from image_pipeline.common.errors import DataError
from image_pipeline.prediction import sources
from image_pipeline.prediction.sources import NO_IMAGES, Source, SourceError, find_sources


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with some files, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.PNG", "[1].png", "notes.txt", "in/c.jpg", "in/deep/d.gif", ".x.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "empty").mkdir()
    return tmp_path


def found(*names: str) -> list[str]:
    return [source.name for source in find_sources(names) if not source.error]


def test_files_folders_and_patterns(here: Path) -> None:
    assert found("b.png", "notes.txt") == ["b.png", "notes.txt"]  # as the user wants it
    assert found("in") == ["in/c.jpg", "in/deep/d.gif"]
    assert found(str(here)) == [
        f"{here}/{name}" for name in ("[1].png", "a.PNG", "b.png", "in/c.jpg", "in/deep/d.gif")
    ]
    assert found("*.png") == ["[1].png", "b.png"]
    assert found("[1].png") == ["[1].png"]  # there is a file of this very name
    assert found("i?") == ["in/c.jpg", "in/deep/d.gif"]
    assert found("in/**/*.gif") == ["in/deep/d.gif"]


@pytest.mark.usefixtures("here")
def test_what_is_named_in_vain_is_told_in_its_place() -> None:
    assert list(find_sources(["gone.png", "b.png", "*.bmp", "empty"])) == [
        Source("gone.png", error="no such file or folder"),
        Source("b.png"),
        Source("*.bmp", error="no file matches this pattern"),
        Source("empty", error=NO_IMAGES),
    ]


def test_a_file_that_cannot_be_read_says_why(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Source("b.png").read() == b"b.png"
    (here / "link.png").symlink_to("nowhere")
    with pytest.raises(SourceError, match=r"^No such file or directory$"):
        Source("link.png").read()
    monkeypatch.setattr(sources, "MAX_BYTES", 4)
    for name in ("b.png", "/dev/zero"):
        with pytest.raises(SourceError, match=r"^larger than "):
            Source(name).read()


def test_a_pipe_is_read_to_its_end() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"image")
    os.close(writing)
    assert Source(f"/dev/fd/{reading}").read() == b"image"
    os.close(reading)


def test_a_list_of_names(here: Path) -> None:
    (here / "list").write_bytes(b"b.png\r\n\nin/c.jpg\n\xff.png")
    assert list(sources.read_list("list")) == ["b.png", "in/c.jpg", os.fsdecode(b"\xff.png")]
    with pytest.raises(DataError, match=r"^gone: cannot be read \(No such file or directory\)$"):
        list(sources.read_list("gone"))
