"""Files that are no archive, told by their first bytes; and archives without images."""

import lzma
import zlib
from bz2 import compress as bzip2
from io import BytesIO

import pytest
from PIL import Image

from image_pipeline.downloading.unsupported import describe_contents, describe_unsupported

UNPACK = (
    ", which is not supported; unpack it and name the folder, or repack that as zip, tar or tar.gz"
)
CONVERT = ", which is not supported; write each image of it to a file, in one folder per class"
BROWSER = "; download the archive in a browser, and name that file"


def table(separator: str, header: bool = True) -> bytes:
    """Return the start of Kaggle's train.csv."""
    names = separator.join(["label", *(f"pixel{number}" for number in range(784))])
    rows = [separator.join(["7", *["0"] * 784])] * 3
    return "\r\n".join([names, *rows] if header else rows).encode()


def saved(form: str) -> bytes:
    file = BytesIO()
    Image.new("L", (600, 600)).save(file, form)
    return file.getvalue()


UNSUPPORTED: dict[str, tuple[bytes, str]] = {
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive" + UNPACK),
    "rar 5": (b"Rar!\x1a\7\1\0", "a RAR archive" + UNPACK),
    "bzip2": (bzip2(b"cat"), "compressed by bzip2" + UNPACK),
    "xz": (lzma.compress(b"cat"), "compressed by xz" + UNPACK),
    "lzma": (lzma.compress(b"cat", lzma.FORMAT_ALONE), "compressed by lzma" + UNPACK),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "compressed by zstd" + UNPACK),
    "table": (table(","), "a table of 785 columns" + CONVERT),
    "table of Excel": (b"\xef\xbb\xbf" + table(";"), "a table of 785 columns" + CONVERT),
    "NumPy": (b"\x93NUMPY\1\0v\0{", "a NumPy array" + CONVERT),
    "SQLite": (b"SQLite format 3\0\x10\0", "an SQLite database" + CONVERT),
    "Parquet": (b"PAR1\x15\4", "a Parquet file" + CONVERT),
    "HDF5": (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file" + CONVERT),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64", "an HDF5 file" + CONVERT),
    "MATLAB 5": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MATLAB file" + CONVERT),
    "IDX": (b"\0\0\x08\3\0\0\xea\x60", "an IDX file" + CONVERT),
    "pickled dict": (b"\x80\2}q\0U\4dataq\1K\1s.", "a Python pickle" + CONVERT),
    "pickled model": (b"\x80\5\x95\x8e\0\0\0\0\0\0\0\x8c", "a Python pickle" + CONVERT),
    "PDF": (b"%PDF-1.7", "a PDF file; save its pictures as image files, in one folder per class"),
    **{
        form: (saved(form), "a single image; name the folder that holds one folder of images per")
        for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
    },
    "login page": (
        b"\n<!DOCTYPE html>\n<html><title>Log in",
        "a web page: perhaps a login or an error" + BROWSER,
    ),
    "XML": (b"<?xml version='1.0'?><Error>", "an XML document: perhaps a server's err"),
    "JSON": (b'{"code":403, "message":"x"}', "a JSON document: perhaps a server's error" + BROWSER),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n",
        "only Git LFS's pointer to the file; run `git lfs pull` where it came from",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_it_is_and_what_to_do(name: str) -> None:
    start, told = UNSUPPORTED[name]
    message = describe_unsupported(start)
    assert message.startswith(f"it is {told}")
    assert "again" not in message  # which is no remedy here
    assert message.isprintable()


@pytest.mark.parametrize(
    "start", [b"", b"Dear reader, hello\nthere", b"cat\n" * 9, zlib.compress(b"x" * 99), bytes(600)]
)
def test_what_is_not_known(start: bytes) -> None:
    assert describe_unsupported(start) == ""


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["x.npy", "y.npy"], "it holds no images, only x.npy, y.npy; tables and arrays are not"),
        (["train.7z", "a.csv"], "it holds no images, only train.7z; archives in it are not opened"),
        (["a/train.csv", "README.md"], "it holds no images, only a/train.csv; tables and arrays"),
        (["train.csv", "cat/1.heic"], ""),
        (["train.csv", "cat/1"], ""),
        (["notes.txt"], ""),
        ([], ""),
    ],
)
def test_contents_that_cannot_be_images(names: list[str], told: str) -> None:
    found = describe_contents(names)
    assert found.startswith(told)
    assert bool(found) == bool(told)
