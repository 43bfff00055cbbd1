"""Hashes of files and settings; the code that they leave out."""

from pathlib import Path

from image_pipeline.common.hashes import WITHOUT_INFLUENCE, dvc_md5, fingerprint, sha256
from project import ROOT


def test_files_have_their_known_hashes(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # of RFC 1321 and FIPS 180-2
    assert dvc_md5(path) == "900150983cd24fb0d6963f7d28e17f72"
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_order_of_keys_changes_no_fingerprint_but_that_of_contents_does() -> None:
    found = fingerprint({"a": 1, "b": [2]}, ["x", "y"])
    assert fingerprint({"b": [2], "a": 1}, ["x", "y"]) == found
    others = [
        fingerprint({"a": 1, "b": [2]}, ["y", "x"]),
        fingerprint({"a": 1, "b": [2]}, ["xy"]),
        fingerprint({"a": 1, "b": [3]}, ["x", "y"]),
    ]
    assert len({found, *others}) == 4


def test_what_is_left_out_exists() -> None:
    package = ROOT / "src" / "image_pipeline"
    for name in WITHOUT_INFLUENCE:
        assert (package / name).is_dir() or (package / f"{name}.py").is_file(), name
