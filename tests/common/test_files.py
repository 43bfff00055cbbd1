import ast
import os
import re
import stat
from pathlib import Path

import pandas as pd
import pytest
from code_facts import imported_files, stage_names

from image_pipeline.common import files
from image_pipeline.common.files import atomic_group, atomic_write, discard_partials, write_bytes
from image_pipeline.serialization import write_csv, write_csv_rows, write_json
from project import ROOT, require


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_while_it_is_written_the_old_file_is_there(tmp_path: Path) -> None:
    """So a kill leaves it, and what a killed run had begun is written over."""
    path, partial = tmp_path / "a.bin", tmp_path / "a.bin.partial"
    path.write_bytes(b"old")
    partial.write_bytes(b"longer than what comes after it")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert partial.read_bytes() == b"new"
    assert path.read_bytes() == b"new"
    assert listed(tmp_path) == ["a.bin"]


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of a group, all bytes before the first name."""
    require(os.name == "posix", "a POSIX system")
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(number: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file"
        steps.append(f"fsync {kind} of {os.fstat(number).st_size if kind == 'file' else 'names'}")
        real_fsync(number)

    def replace(path: Path, target: Path) -> Path:
        steps.append(f"rename {path.name} to {target.name}")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_bytes(tmp_path / "a.bin", b"three")
    assert steps == ["fsync file of 5", "rename a.bin.partial to a.bin", "fsync folder of names"]
    steps.clear()
    with atomic_group():
        for name, content in (("a.bin", b"1"), ("b.bin", b"22"), ("a.bin", b"4444")):
            write_bytes(tmp_path / name, content)
    assert steps == [
        *("fsync file of 1", "fsync file of 2", "fsync file of 4"),
        "rename a.bin.partial to a.bin",
        "rename b.bin.partial to b.bin",
        "fsync folder of names",
    ]
    assert listed(tmp_path) == ["a.bin", "b.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"4444"


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    require(os.name == "posix", "a POSIX system")
    path = tmp_path / "deep" / "a.bin"
    before = os.umask(0o027)
    try:
        write_bytes(path, b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() == b"new"


def test_a_failure_at_the_third_file_leaves_all_as_they_were(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(b"old")
    with pytest.raises(RuntimeError, match="does not nest"), atomic_group(), atomic_group():
        pass
    with pytest.raises(KeyboardInterrupt), atomic_group():  # noqa: PT012
        write_bytes(tmp_path / "a.bin", b"new")
        write_bytes(tmp_path / "b.bin", b"new")
        with atomic_write(tmp_path / "c.bin"):
            raise KeyboardInterrupt
    assert listed(tmp_path) == ["a.bin", "b.bin"]
    assert {(tmp_path / name).read_bytes() for name in listed(tmp_path)} == {b"old"}
    write_bytes(tmp_path / "a.bin", b"later")  # the block is over: this one is on its own
    assert (tmp_path / "a.bin").read_bytes() == b"later"


def test_discard_partials_removes_what_is_begun_and_keeps_what_is_done(tmp_path: Path) -> None:
    write_bytes(tmp_path / "done.bin", b"done")
    with pytest.raises(FileNotFoundError), atomic_group():  # noqa: PT012
        write_bytes(tmp_path / "held.bin", b"held")
        with atomic_write(tmp_path / "begun.bin") as file:
            file.write(b"begun")
            assert listed(tmp_path) == ["begun.bin.partial", "done.bin", "held.bin.partial"]
            discard_partials()
            assert listed(tmp_path) == ["done.bin"]
    assert listed(tmp_path) == ["done.bin"]


def test_a_failed_write_names_its_file(tmp_path: Path) -> None:
    require(Path("/dev/full").exists(), "/dev/full")
    path = tmp_path / "a.bin"
    (tmp_path / "a.bin.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(path, b"x")
    assert caught.value.filename == str(path)
    assert listed(tmp_path) == []


def test_json_is_sorted_rounded_and_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1 / 3, "a": {"d": [2 / 3, 1], "c": "ü"}, "n": 7})
    assert path.read_bytes() == (
        b'{\n  "a": {\n    "c": "\\u00fc",\n    "d": [\n      0.666667,\n      1\n    ]\n  },\n'
        b'  "b": 0.333333,\n  "n": 7\n}\n'
    )
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert path.read_bytes() == before


def test_csv_has_the_same_bytes_on_any_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "linesep", "\r\n")
    write_csv(tmp_path / "a.csv", pd.DataFrame({"name": ["a,b"], "x": [1 / 3], "n": [2]}))
    assert (tmp_path / "a.csv").read_bytes() == b'name,x,n\n"a,b",0.333333,2\n'
    write_csv_rows(tmp_path / "a.csv", ["name", "n"], [["a,b", 2]])
    assert (tmp_path / "a.csv").read_bytes() == b'name,n\n"a,b",2\n'


# What writes a file by itself. `x.savefig` and `torch.save` get a buffer where they are allowed.
WRITERS = {
    *("write_text", "write_bytes", "savefig", "save_file", "tofile", "savez", "dump", "touch"),
    *("to_csv", "to_json", "to_parquet", "to_pickle", "copyfile", "copy2", "move", "save"),
}
ALLOWED = {
    # No path: this returns the text.
    ("src/image_pipeline/serialization.py", "table.to_csv(index=False"),
    # Into the file that `atomic_write` gives.
    ("src/image_pipeline/downloading/archives.py", "tarfile.open(fileobj=file, mode='w'"),
    ("src/image_pipeline/plotting/figures.py", "figure.savefig(buffer,"),
    ("src/image_pipeline/training/checkpoint.py", "torch.save({'key': self._key, 'state': dict"),
    ("src/image_pipeline/training/state.py", "checkpoint.save("),
    # Through a memory map, as features need not fit in memory; flushed, then renamed.
    ("src/image_pipeline/training/features.py", "self._partial.touch()"),
    ("src/image_pipeline/training/features.py", "self._partial.open('r+b')"),
    ("src/image_pipeline/training/train.py", "self.state.save(checkpoint)"),
}


def test_every_file_that_a_stage_writes_goes_through_this_module() -> None:
    found, used = [], set()
    files = set().union(*map(imported_files, stage_names()))
    sources = [path for name in files for path in ROOT.glob(re.sub(r"\$\{.*\}", "*", name))]
    assert len(sources) > 20
    for source in sources:
        name = source.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Call):
                continue
            text = ast.unparse(node)
            called = ast.unparse(node.func).split(".")[-1]
            allowed = {entry for entry in ALLOWED if name == entry[0] and text.startswith(entry[1])}
            used |= allowed
            method = isinstance(node.func, ast.Attribute)
            writes = (method and called in WRITERS) or (called == "open" and _for_writing(node))
            if writes and not allowed and name != "src/image_pipeline/common/files.py":
                found.append(f"{name}:{node.lineno}: {text}")
    assert found == []
    assert used == ALLOWED


def _for_writing(call: ast.Call) -> bool:
    """Whether a call of `open` names a mode that is not for reading alone."""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [value.value for value in values if isinstance(value, ast.Constant)]
    return any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes)


def test_the_partial_suffix_is_ignored_by_git() -> None:
    assert f"*{files.PARTIAL_SUFFIX}" in (ROOT / ".gitignore").read_text().splitlines()
