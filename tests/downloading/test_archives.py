"""Untrusted archives: a safe one is repacked into one tar file, each hostile one is refused."""

import gzip
import os
import stat
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import write_folder, write_tar, write_tar_gz, write_zip
from image_pipeline.common.errors import DataError
from image_pipeline.downloading import archives, sources
from image_pipeline.downloading.archives import pack
from image_pipeline.downloading.sources import Entry, read_tar
from project import run
from refusals import damaged, quick, refusal, said_by, valid_or_refused

Make = Callable[[Path], object]
FILES = {
    "cat/1.png": b"one",
    "cat/2.png": b"",
    "dog/déjà vu.png": b"x" * 1000,
    f"dog/{'long' * 30}/3.png": b"three",
}
ONE_MORE = "cat/3.png"


def tree(folder: Path) -> dict[str, object]:
    """Return all that is in a folder, but for those in which a file may appear: their facts."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        status, name = path.lstat(), str(path.relative_to(folder))
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        if name not in ("project", "project/data", "project/data/raw"):
            found[name] = (status.st_mode, status.st_mtime_ns, content)
    return found


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the header of a tar file's entry, all that is not said here being zero."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return the only folder that may be written to, deep in one that holds other things."""
    write_folder(tmp_path, {"1.png": b"precious", "project/cat/1.png": b"precious"})
    return tmp_path / "project" / "data" / "raw"


def refused(source: Path, raw: Path, top: Path) -> str:
    """Return why `source` is refused; nothing may change anywhere, nor anything be left behind."""
    before = tree(top)
    message = refusal(source, lambda source: pack(source, raw / "images.tar"))
    assert tree(top) == before
    return message


# What is harmless.


def packed(source: Path, raw: Path) -> bytes:
    pack(source, raw / "images.tar")
    assert [path.name for path in raw.iterdir()] == ["images.tar"]
    return (raw / "images.tar").read_bytes()


BACKWARDS = dict(reversed(FILES.items()))
DECOMPOSED = {name.replace("é", "e\u0301"): content for name, content in FILES.items()}
OF_MAC = {"__MACOSX/cat/._1.png": b"?", "cat/.DS_Store": b"?"}
RUBBISH = {"cat/Thumbs.db": b"?", ".git/config": b"?", "dog/desktop.ini": b""}
MAKERS: dict[str, Make] = {
    "folder": lambda path: write_folder(path, FILES),
    "zip": lambda path: write_zip(path, FILES),
    "zip, stored, backwards": lambda path: write_zip(path, BACKWARDS, zipfile.ZIP_STORED),
    "GNU tar": lambda path: write_tar(path, FILES, form=tarfile.GNU_FORMAT),
    "POSIX tar, backwards": lambda path: write_tar(path, BACKWARDS, form=tarfile.PAX_FORMAT),
    "old tar": lambda path: write_tar(path, FILES, form=tarfile.USTAR_FORMAT),
    "tar.gz": lambda path: write_tar_gz(path, FILES),
    "tar of .": lambda path: write_tar(path, {f"./{name}": FILES[name] for name in FILES}),
    "zip from a Mac": lambda path: write_zip(path, DECOMPOSED | OF_MAC),
    "folder with rubbish": lambda path: write_folder(path, FILES | RUBBISH),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_files_give_the_same_bytes(name: str, raw: Path, tmp_path: Path) -> None:
    expected = b"".join(
        header(file, len(content)) + content + bytes(-len(content) % 512)
        for file, content in sorted(FILES.items())
    )
    MAKERS[name](tmp_path / "source")
    found = packed(tmp_path / "source", raw)
    assert len(found) == 10240
    assert found == expected.ljust(10240, b"\0")


# What is not. Each case is what is said of a source, and what makes it.


def one_more(name: str, content: bytes = b"bad") -> Make:
    return lambda path: write_zip(path, FILES | {name: content})


def zip_with_mode(mode: int) -> Make:
    def make(path: Path) -> None:
        info = zipfile.ZipInfo(ONE_MORE)
        info.external_attr = mode << 16
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(info, "/etc/passwd")

    return make


def changed(make: Make, change: Callable[[bytes], bytes]) -> Make:
    """Change the bytes of a file that another function has made."""

    def build(path: Path) -> None:
        make(path)
        path.write_bytes(change(path.read_bytes()))

    return build


def halved(kind: str) -> Make:
    return changed(MAKERS[kind], lambda content: content[: len(content) // 2])


def tar_of(*parts: bytes) -> Make:
    return lambda path: path.write_bytes(b"".join(parts) + bytes(1024))


def pax(kind: bytes, **facts: str) -> bytes:
    """Return a header that tells more of the next entry (`x`), or of all (`g`)."""
    bodies = [f" {key.replace('_', '.')}={value}\n" for key, value in facts.items()]
    records = "".join(f"{len(body) + 2}{body}" for body in bodies).encode()  # of two digits each
    return header("x", len(records), kind) + records + bytes(-len(records) % 512)


def zip_listing(count: int, content: bytes) -> Make:
    """Return a maker of a list of so many entries that share one local header."""

    def make(path: Path) -> None:
        write_zip(path, {"cat/0000000.png": content})
        one = path.read_bytes()
        begin, end = one.index(b"PK\1\2"), one.index(b"PK\5\6")
        first, last = one[begin:end].split(b"0000000")
        listed = b"".join(b"%b%07d%b" % (first, number, last) for number in range(count))
        tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, len(listed), begin, 0)
        path.write_bytes(one[:begin] + listed + tail)

    return make


def million_tar(path: Path) -> None:
    """A folder, named a million times."""
    with path.open("wb") as file:
        for _ in range(1000):
            file.write(header("cat", 0, tarfile.DIRTYPE) * 1000)


def folder_with(make: Make) -> Make:
    def build(path: Path) -> None:
        write_folder(path, FILES)
        make(path / ONE_MORE)

    return build


BAD = f"entry '{ONE_MORE}' "
LINK = "is a symbolic link; replace it by the file"
OUTSIDE = "points outside the folder (`..`); repack the folder from inside it"
ABSOLUTE = "is an absolute path; repack the folder from inside it"
NAMES = {
    "../1.png": OUTSIDE,
    "..\\1.png": OUTSIDE,
    "../.x": OUTSIDE,  # a hidden one, too
    "/etc/1.png": ABSOLUTE,
    "C:\\1.png": ABSOLUTE,
    "c:1.png": ABSOLUTE,
    "\\\\host\\1.png": ABSOLUTE,
    "cat\\1.png": "has a backslash in its name; rename it, or use `zip -r`",
}
KINDS_IN_TAR = {
    tarfile.SYMTYPE: LINK,
    tarfile.LNKTYPE: "is a hard link; replace it by the file",
    tarfile.CHRTYPE: "is a device; remove it",
    tarfile.BLKTYPE: "is a device; remove it",
    tarfile.FIFOTYPE: "is a fifo; remove it",
    tarfile.GNUTYPE_SPARSE: "is a sparse file; remove it",
    b"Z": "is of the unknown type b'Z'; remove it",
}
NOT_UTF8 = r"entry 'cat/\xe9.png' has a name that is not UTF-8; rename it"
TARS: dict[str, Make] = {
    f"entry 'cat/' {LINK}": tar_of(header("cat/", 0, tarfile.SYMTYPE)),
    f"'{ONE_MORE}' is a sparse file; remove it": tar_of(
        pax(b"x", GNU_sparse_map="0,1", GNU_sparse_size="9"), header(ONE_MORE, 0)
    ),
    BAD + "has 1073741825 bytes, more than 1073741824; remove it": tar_of(
        header(ONE_MORE, (1 << 30) + 1)
    ),
    "entry 'cat/1.png' occurs twice; repack the folder from inside it": tar_of(
        *[header("cat/1.png", 0)] * 2
    ),
    NOT_UTF8: lambda path: write_tar(path, {"cat/\udce9.png": b""}, form=tarfile.GNU_FORMAT),
    "a header of 1073741824 bytes at byte 512, too long": tar_of(header("x", 1 << 30, b"x")),
    "a header of 512 bytes at byte 32768, too long); get it again": tar_of(
        *[header("x", 0, b"L")] * 5000
    ),
    "(an entry of -512 bytes); get it again": tar_of(
        pax(b"x", size="-512"), header(ONE_MORE, 512), bytes(512)
    ),
    "(no header and no end mark at byte 512); get it again, or repack the folder": (
        lambda path: path.write_bytes(header(ONE_MORE, 0))
    ),
    "valid zip, tar or tar.gz file (unexpected end": changed(
        MAKERS["GNU tar"], lambda content: content[:2048]
    ),
    "valid archive (Compressed file ended before": halved("tar.gz"),
    "decompress to more than 100 times their size, unlike images": (
        lambda path: path.write_bytes(gzip.compress(bytes(sources.MIN_BOMB_BYTES + 1)))
    ),
    "it holds no files; put": lambda path: write_tar(path, {}),
}
ZIPS: dict[str, Make] = {
    **{f"entry '{name}' {told}": one_more(name) for name, told in NAMES.items()},
    "entry 'cat/1.png' is both a file and a": one_more("cat/1.png/x.png"),
    "entry 'cat/a b.png' has a control character in": one_more("cat/a\nb.png"),
    "has a control character in its name; rename": one_more("cat/a\x7f.png"),
    "entry 'cat/z?ro.png' has a control character in its name; rename it": changed(
        one_more("cat/zero.png"), lambda content: content.replace(b"zero", b"z\0ro")
    ),
    "has a path longer than 4096 bytes; shorten": one_more("x/" * 3000 + "1.png"),
    "entry 'dog/déjà vu.png' occurs twice; its accents are encoded in two ways: rename one of": (
        one_more("dog/de\u0301jà vu.png")
    ),
    BAD + LINK: zip_with_mode(stat.S_IFLNK | 0o777),
    BAD + "is a device; remove it": zip_with_mode(stat.S_IFBLK),
    BAD + "is a socket; remove it": zip_with_mode(stat.S_IFSOCK),
    " bytes to 67108865, unlike any image; remove it": one_more(
        ONE_MORE, bytes(sources.MIN_BOMB_BYTES + 1)
    ),
    "compressed bytes to more than 100 times": zip_listing(4000, bytes(1 << 20)),
    "more than 500000 entries; use a smaller set": zip_listing(1_000_000, b""),
    "is encrypted; repack the folder without a password": changed(
        one_more(ONE_MORE),
        lambda content: content.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
    ),
    BAD + "is not compressed by deflate; repack the folder (`zip -r`)": (
        lambda path: write_zip(path, {ONE_MORE: b"x"}, zipfile.ZIP_BZIP2)
    ),
    "has a name that is not UTF-8; rename it": changed(
        one_more("cat/x.png"), lambda content: content.replace(b"cat/x", b"cat/\xe9")
    ),
    "not a valid archive (Bad CRC-32 for file": changed(
        lambda path: write_zip(path, FILES, 0), lambda content: content.replace(b"three", b"thrEE")
    ),
    "not a valid archive (File is not a zip file); get it": halved("zip"),
    "it is a part of a split zip, or a zip with something before it; make it whole: `zip -s 0": (
        changed(MAKERS["zip"], lambda content: b"x" * 600 + content)
    ),
}
FOLDERS: dict[str, Make] = {
    BAD + LINK: folder_with(lambda path: path.symlink_to("1.png")),
    BAD + "is a fifo; remove it": folder_with(os.mkfifo),
    NOT_UTF8: folder_with(
        lambda path: Path(os.fsdecode(bytes(path.parent) + b"/\xe9.png")).touch()
    ),
    "it holds no images, only 0.zip, 1.zip, 2.zip and 1 more; archives in it are not opened;": (
        lambda path: write_folder(path, {f"{n}.zip": b"" for n in range(4)} | {"a.csv": b""})
    ),
    "not found; set download.folder.path to a folder of images": lambda _: None,
}
OTHERS: dict[str, Make] = {
    "not a valid zip, tar or tar.gz file (invalid header)": (
        lambda path: path.write_bytes(b"Dear reader" * 99)
    ),
    "not a valid zip, tar or tar.gz file (empty": lambda path: path.touch(),
    "it is a table of 2 columns, which is not supported; write each image of it to a file": (
        lambda path: path.write_bytes(gzip.compress(b"label,pixel0\n1,2\n" * 999))
    ),
}
HOSTILE = [
    *((BAD + told, tar_of(header(ONE_MORE, 0, kind))) for kind, told in KINDS_IN_TAR.items()),
    *(case for table in (TARS, ZIPS, FOLDERS, OTHERS) for case in table.items()),
]


@pytest.mark.parametrize(("told", "make"), HOSTILE, ids=[told for told, _ in HOSTILE])
def test_it_is_refused_and_nothing_is_written(
    told: str, make: Make, raw: Path, tmp_path: Path
) -> None:
    make(tmp_path / "source")
    assert told in refused(tmp_path / "source", raw, tmp_path)


@pytest.mark.parametrize(
    ("kind", "limits", "told"),
    [
        ("folder", {"MAX_ENTRIES": 3}, "more than 3 entries"),
        ("zip", {"MAX_ENTRIES": 3}, "more than 3 entries"),
        ("folder", {"MAX_BYTES": 1000}, "brings the total to more than 1000 bytes"),
        ("GNU tar", {"MAX_BYTES": 1000}, "brings the total to more than 1000 bytes"),
        ("tar.gz", {"MAX_BYTES": 1000, "MAX_ENTRIES": 1}, "decompresses to more than 2024 bytes"),
    ],
)
def test_too_much_together(
    kind: str, limits: dict[str, int], told: str, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = raw.parents[2]
    for name, value in limits.items():
        monkeypatch.setattr(sources, name, value)
    MAKERS[kind](top / "source")
    assert refused(top / "source", raw, top).endswith(f"{told}; use a smaller set")


@pytest.mark.slow
@pytest.mark.parametrize("make", [zip_listing(1_000_000, b""), million_tar])
def test_a_million_entries_take_little_memory(make: Make, raw: Path, tmp_path: Path) -> None:
    make(tmp_path / "source")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from image_pipeline.downloading.archives import pack\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: pack(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except Exception as error: assert 'more than 500000 entries' in str(error)\n"
        "else: sys.exit('not refused')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = run(sys.executable, "-c", code, tmp_path / "source", raw / "images.tar")
    # In kilobytes. The list in the zip file has 67 MB; as Python's objects it would have 700.
    assert int(done.stdout) < 200_000


def test_what_is_said_of_all_entries_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "source"
    with path.open("wb") as file:
        for number in range(300):
            keys = {f"key{number:03}{key:03}": "x" * 50 for key in range(200)}
            file.write(pax(b"g", **keys) + header(f"cat/{number}.png", 0))
        file.write(bytes(1024))
    with path.open("rb") as file:
        tracemalloc.start()
        assert sum(1 for _ in read_tar(file)) == 300
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert held < 1 << 20  # of 4 MB


def test_folders_without_files_are_kept(raw: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_folder(source, FILES | {"fox/.DS_Store": b"?", ".git/x": b""})
    (source / "cat" / "deep" / "er").mkdir(parents=True)
    (source / "hen").mkdir()
    expected = sorted([*FILES, "cat/deep/er", "fox", "hen"])
    archived = tmp_path / "archive.tar.gz"
    with tarfile.open(archived, "w:gz") as archive:
        archive.add(source, "")
    for path in (source, archived):
        packed(path, raw)
        with (raw / "images.tar").open("rb") as file:
            found = {entry.name: entry.isdir() for entry in read_tar(file)}
        assert list(found) == expected
        assert [name for name in found if found[name]] == ["cat/deep/er", "fox", "hen"]


def test_a_folder_that_is_too_deep_is_told(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "source", FILES)
    monkeypatch.chdir(tmp_path / "source")
    for _ in range(17):  # each step by a name of its own: the whole would be refused here, too
        Path("x" * 250).mkdir()
        monkeypatch.chdir("x" * 250)
    told = said_by(DataError, pack, tmp_path / "source", raw / "images.tar")
    assert "has a path longer than 4096 bytes; " in told or "is too long for this system; " in told


def let_happen(change: Make, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something happen to a source once it was listed."""
    choose = archives.choose

    def choose_and_change(entries: list[Entry]) -> list[Entry]:
        chosen = choose(entries)
        change(source)
        return chosen

    monkeypatch.setattr(archives, "choose", choose_and_change)


def replace_by_equal(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, (1, 1))
    other.replace(path)


def replace_by_link(path: Path) -> None:
    (path / "cat/1.png").rename(path / "cat/4.png")
    (path / "cat/1.png").symlink_to("4.png")


AGAIN = "; run `dvc repro` again when nothing writes there"
WHOLE = f"changed while it was packed: the file itself{AGAIN}"
GONE = f"cat/1.png: changed while {{}} was packed{AGAIN}"


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("folder", lambda path: (path / "fox").mkdir(), f"packed: fox (new){AGAIN}"),
        (
            "folder",
            lambda path: (path / "cat/1.png").write_bytes(b"two"),
            f"packed: cat/1.png (changed){AGAIN}",
        ),
        ("folder", lambda path: (path / "cat/1.png").rename(path / "dog/1.png"), GONE),
        ("folder", replace_by_link, GONE),
        (
            "folder",
            lambda path: [(path / f"cat/{n}.jpg").touch() for n in range(7)],
            "packed: cat/0.jpg (new), cat/1.jpg (new), cat/2.jpg (new), cat/3.jpg (new), "
            f"cat/4.jpg (new) and 2 more{AGAIN}",
        ),
        (
            "folder",
            lambda path: (path / "cat/1.png").write_bytes(b"longer"),
            "entry 'cat/1.png' is damaged, or changed while it was read: run it again",
        ),
        *((kind, replace_by_equal, WHOLE) for kind in ("zip", "GNU tar", "tar.gz")),
        ("zip", lambda path: path.touch(), WHOLE),
    ],
)
def test_what_changes_meanwhile_is_told(
    kind: str, change: Make, told: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    MAKERS[kind](source)
    for path in (source, *source.rglob("*")):
        os.utime(path, (1, 1))
    let_happen(change, source, monkeypatch)
    assert said_by(DataError, pack, source, raw / "images.tar").endswith(told.format(source))
    assert not any(raw.iterdir())


def test_clutter_that_comes_meanwhile_does_no_harm(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    write_folder(source, FILES)
    expected = packed(source, raw)
    clutter = {"cat/@eaDir/1.png": b"?", ".x": b""}
    let_happen(lambda path: write_folder(path, clutter), source, monkeypatch)
    assert packed(source, raw) == expected
    assert (source / ".x").exists()


def test_what_is_left_out_is_counted(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["@eaDir/cat/x.png", "cat/@eaDir/1.png/thumb.jpg", "cat/@eaDir/2.png", "lost+found/x"]
    names += ["$RECYCLE.BIN/S-1-5/a.png", "System Volume Information/x", ".AppleDouble/1.png"]
    names += [f"cat/{n}.png:Zone.Identifier" for n in (1, 2)] + ["dog/Icon\r", "._a", "dog/._b"]
    source, archive = tmp_path / "source", tmp_path / "archive"
    write_folder(source, FILES)
    expected = packed(source, raw)
    assert "left out" not in capsys.readouterr().out
    write_folder(source, dict.fromkeys(names, b"?"))
    (source / "cat" / ".link").symlink_to("/")
    write_zip(archive, FILES | dict.fromkeys([*names, "cat/.link"], b"?"))
    for path in (source, archive):
        assert packed(path, raw) == expected
        assert capsys.readouterr().out == (
            f"download: {path}: left out by name, 12 in all: *:Zone.Identifier (2), ._* (2), "
            "@eaDir (2), $RECYCLE.BIN, .AppleDouble, .link, Icon, System Volume Information, "
            "lost+found\n"
        )


def test_names_that_some_disks_cannot_hold_are_packed_and_told(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["A/1.png", "A/2.png", "a/1.PNG", "a/1.png", "b/STRASSE.png", "b/straße.png"]
    names.append(f"{'cat' * 100}/{'1' * 300}.png")  # longer than any disk allows
    write_zip(tmp_path / "source", {name: name.encode() for name in names})
    packed(tmp_path / "source", raw)
    with tarfile.open(raw / "images.tar") as archive:
        assert archive.getnames() == names
    assert capsys.readouterr().out == (
        f"download: {tmp_path / 'source'}: 'A' and 'a' differ only in case (such pairs: 2); a "
        "clone on a system that ignores case (Windows, macOS) can't hold both\n"
    )


def test_links_into_the_projects_dvc_cache_are_images(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, project = tmp_path / "images", tmp_path / "project"
    write_folder(source, FILES)
    expected = packed(source, raw)
    monkeypatch.chdir(project)
    write_folder(project, {".dvc/config": b"[core]\n no_scm = true\n[cache]\n dir = ../../cache\n"})
    for number, (name, content) in enumerate(FILES.items()):  # as `cache.type = symlink` has them
        cached = tmp_path / "cache" / "files" / "md5" / f"{number:02}" / "d41d8cd98f"
        write_folder(cached.parent, {cached.name: content})
        link = Path("images", name)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(cached)
    assert packed(Path("images"), raw) == expected
    for target in (source / "cat" / "1.png", tmp_path / "cache", tmp_path / "cache" / "gone"):
        Path("images/cat/3.png").symlink_to(target)
        with pytest.raises(DataError, match=f"^images: {BAD}is a symbolic link; replace it by the"):
            pack(Path("images"), raw / "images.tar")
        Path("images/cat/3.png").unlink()


@pytest.mark.parametrize("name", ["zip", "GNU tar", "POSIX tar, backwards", "tar.gz"])
@quick
@given(data=st.data())
def test_any_damage_is_harmless_or_refused_in_one_line(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    source = folder / "source"
    MAKERS[name](source)
    content = source.read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        content = data.draw(damaged(content))
    source.write_bytes(content)
    valid_or_refused(source, lambda: pack(source, folder / "raw" / "images.tar"))
    assert {path.name for path in folder.rglob("*")} <= {"source", "raw", "images.tar"}
