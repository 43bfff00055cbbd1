"""What is left out by its name, here and by DVC."""

import pytest
from dvc.fs import LocalFileSystem  # type: ignore[import-untyped]
from dvc.ignore import DvcIgnorePatterns  # type: ignore[import-untyped]

from image_pipeline.downloading.clutter import NAMES, count_by_name, is_clutter
from project import ROOT

NO_CLUTTER = ("*.partial", ".*.tmp")  # files that are being written
DVC = DvcIgnorePatterns.from_file(str(ROOT / ".dvcignore"), LocalFileSystem(), ".dvcignore")
PATTERNS = [info.patterns for info in DVC.pattern_list if info.patterns not in NO_CLUTTER]


def test_dvc_ignores_what_is_left_out() -> None:
    written = {name.lower(): name for name in (pattern.lstrip("\\") for pattern in PATTERNS)}
    names = {written.get(name, "Icon\r") for name in NAMES}
    assert len(names) == len(NAMES) == 19
    folder = str(ROOT / "images" / "cat")
    assert [name for name in names if not DVC.matches(folder, name, is_dir=True)] == []
    assert DVC.matches(folder, "1.jpg:Zone.Identifier", is_dir=False)
    for name in ("Icons", "Icon1", "1.png", "a", "A", "recycle", "eaDir", "Thumbs"):
        assert not DVC.matches(folder, name, is_dir=True)
        assert not is_clutter(name)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_dvc_ignores_is_left_out(pattern: str) -> None:
    name = pattern.replace("[! -~]", "\r").removeprefix("\\").replace("*", "1.png")
    assert DVC.matches(str(ROOT / "images"), name, is_dir=False)
    assert is_clutter(name)
    assert is_clutter(name.upper())


def test_ten_names_are_shown() -> None:
    many = count_by_name(f"a/.{number:02}" for number in range(14))
    assert many.startswith(".00, .01, .02, ")
    assert many.endswith(", .09, and 4 other names")
