"""Readers of what a user's images come in: a folder, or a zip, tar or tar.gz file.

They list entries and open the files among them. Whatever an archive claims, memory grows with the
number of its entries alone, and `archives.checked` limits that.
"""

import errno
import gzip
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from tqdm import tqdm

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.downloading.clutter import is_clutter
from image_pipeline.downloading.unsupported import JOIN, SPLIT_ZIP, describe_unsupported

MAX_ENTRIES = 500_000  # files and folders
MAX_BYTES = 1 << 36  # of all files together: 64 GiB
MAX_RATIO = 100  # of decompressed to compressed size; compressed images have 1 to 4
MIN_BOMB_BYTES = 1 << 26  # decompressed; anything smaller is never a bomb
MAX_DIRECTORY_BYTES = 1 << 28  # of a zip file's central directory
MAX_HEADER_BYTES = 1 << 15  # of all headers of one tar entry, a long name included
BLOCK = 512  # of a tar file
CHUNK = 1 << 18
AGAIN = "run `dvc repro` again when nothing writes there"

ENCRYPTED = 0x2041  # flag bits of a zip entry: encryption, strong encryption, masked headers
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
}
TAR_KINDS = {
    tarfile.DIRTYPE: "folder",
    b"D": "folder",  # in GNU's incremental backups
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a fifo",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder in a source.

    Attributes:
        name: its path as the source has it; normalized by `checked`.
        kind: `file`, `folder`, or a description of what else it is; corrected by `checked`.
        size: in bytes.
        handle: what its reader finds the content by.
        compressed_size: bytes it takes in the source.
        problem: why a file cannot be read, and what to do; or empty.
        version: of a file in a folder, what differs once another was written in its place.
    """

    name: str
    kind: str
    size: int
    handle: Any
    compressed_size: int
    problem: str = ""
    version: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """An opened folder or archive.

    Attributes:
        entries: all of them, in any order.
        open_content: opens the content of a file among them.
        find_changes: names what came, went or changed since it was opened.
    """

    entries: Iterator[Entry]
    open_content: Callable[[Entry], AbstractContextManager[IO[bytes]]]
    find_changes: Callable[[], list[str]]


@contextmanager
def open_source(path: Path, temporary: Path) -> Iterator[Source]:
    """Open a folder or an archive, whose kind is detected by its first bytes.

    Args:
        path: of the folder or archive.
        temporary: the folder for a nameless temporary file.

    Raises:
        DataError: there is nothing at `path`, or it cannot be opened; or reading the archive fails
            in the block.
    """
    remedy, start = "get it again, or repack the folder", b""
    try:
        if path.is_dir():
            yield _open_folder(path)
            return
        if not path.is_file():
            what = "neither a folder nor a file" if path.exists() else "not found"
            raise DataError(
                f"{path}: {what}; set download.folder.path to a folder of images, or to an archive"
            )
        with ExitStack() as stack:
            file: BinaryIO = stack.enter_context(path.open("rb"))
            version = _version(os.fstat(file.fileno()))

            def find_changes() -> list[str]:
                return [] if _version(path.stat()) == version else ["the file itself"]

            start = file.read(CHUNK)
            if start.startswith((b"PK\3\4", b"PK\5\6")):
                guarded = cast("IO[bytes]", _GuardedZip(file, path))
                archive = zipfile.ZipFile(guarded, metadata_encoding="utf-8")
                stack.enter_context(archive)
                entries = _zip_entries(archive)
                yield Source(entries, lambda entry: archive.open(entry.handle), find_changes)
                return
            if start.startswith(b"\x1f\x8b"):
                temporary.mkdir(parents=True, exist_ok=True)
                decompressed = stack.enter_context(tempfile.TemporaryFile(dir=temporary))
                _decompress(file, path, decompressed)
                file = decompressed
                file.seek(0)
                start = file.read(CHUNK)

            def content(entry: Entry) -> AbstractContextManager[IO[bytes]]:
                file.seek(entry.handle)
                return nullcontext(file)

            yield Source(_tar_entries(file), content, find_changes)
    except tarfile.TarError as error:
        if unsupported := describe_unsupported(start):
            raise DataError(f"{path}: {unsupported}") from None
        if zipfile.is_zipfile(path):
            raise DataError(f"{path}: it is {SPLIT_ZIP}{JOIN}") from None
        reason = f"not a valid zip, tar or tar.gz file ({one_line(error)})"
        raise DataError(f"{path}: {reason}; {remedy}") from None
    except UnicodeDecodeError as error:
        shown = ascii(error.object)[:120]
        raise DataError(f"{path}: entry {shown} has a name that is not UTF-8; rename it") from None
    except (EOFError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a valid archive ({one_line(error)}); {remedy}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            problem = "has a path that is too long for this system; shorten it"
            raise refuse(path, error.filename, problem) from None
        if error.errno in (errno.ENOENT, errno.ELOOP) and str(error.filename).startswith(str(path)):
            raise DataError(f"{error.filename}: changed while {path} was packed; {AGAIN}") from None
        if error.errno not in (None, errno.EINVAL):  # gzip's own, or a seek before byte 0
            raise
        raise DataError(f"{path}: not a valid archive ({one_line(error)}); {remedy}") from None


def _open_folder(path: Path) -> Source:
    listed: dict[str, Entry] = {}

    def entries() -> Iterator[Entry]:
        for entry in _folder_entries(path):
            listed[entry.name] = entry
            yield entry

    def find_changes() -> list[str]:
        now = {entry.name: entry for entry in _folder_entries(path)}
        return [
            f"{name} ({'new' if name not in listed else 'changed' if name in now else 'gone'})"
            for name in sorted(listed.keys() | now.keys())
            if listed.get(name) != now.get(name) and not is_clutter(name.rpartition("/")[2])
        ]

    return Source(
        entries(), lambda entry: _open_regular_file(path / entry.handle, entry.size), find_changes
    )


def _folder_entries(path: Path) -> Iterator[Entry]:
    """Walk a local folder, but not into clutter; follow no links, but those into DVC's cache."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(path / prefix) as found:
            for item in found:
                name = handle = prefix + item.name
                if is_clutter(item.name):
                    yield Entry(name, "clutter", 0, "", 0)
                    continue
                status = item.stat(follow_symlinks=False)
                if item.is_symlink() and (target := _find_in_dvc_cache(item.path)):
                    handle, status = str(target), target.stat()
                kind = KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
                if kind == "folder":
                    pending.append(f"{name}/")
                if kind == "file":
                    size = status.st_size
                    yield Entry(name, kind, size, handle, size, version=_version(status))
                else:
                    yield Entry(name, kind, 0, handle, 0)


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Return by what DVC, too, tells whether a file has changed."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def _find_in_dvc_cache(link: str) -> Path | None:
    """Return the file in this project's DVC cache that a link leads to."""
    target, cache = Path(link).resolve(), _dvc_cache(Path.cwd())
    return target if cache and target.is_relative_to(cache) and target.is_file() else None


@cache
def _dvc_cache(project: Path) -> Path | None:
    """Return the folder of the DVC cache of the project in a folder, if it is one."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    return None if done.returncode else Path(project, done.stdout.strip()).resolve()


def _open_regular_file(path: Path, size: int) -> IO[bytes]:
    """Open a file, unless it has become a link or a fifo since it was listed, or changed size."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = open(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb")  # noqa: PTH123, SIM115
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        raise EOFError
    return file


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[Entry]:
    """List a zip file's central directory. Format: PKWARE's APPNOTE.TXT."""
    for info in archive.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        name = info.orig_filename  # `filename` ends at a zero byte
        kind = KINDS.get(mode or stat.S_IFREG, "of an unknown kind")
        problem = ""
        if info.flag_bits & ENCRYPTED:
            problem = "is encrypted; repack the folder without a password"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Python decompresses the other methods without a bound on memory.
            problem = "is not compressed by deflate; repack the folder (`zip -r`)"
        yield Entry(name, kind, info.file_size, info, info.compress_size, problem)


def _tar_entries(file: BinaryIO) -> Iterator[Entry]:
    for info in read_tar(file):
        kind = "file" if info.isreg() else f"of the unknown type {info.type!r}"
        kind = "a sparse file" if info.issparse() else TAR_KINDS.get(info.type, kind)
        yield Entry(info.name, kind, info.size, info.offset_data, info.size)


def read_tar(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the entries of an uncompressed tar file, reading headers only.

    Memory grows neither with their number nor with the sizes that headers claim.

    Raises:
        tarfile.TarError: the file is damaged, or not a tar file; after the entries before the
            damage.
    """
    guarded = _GuardedTar(file)
    file.seek(0)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", guarded), mode="r:") as archive:
            while (info := archive.next()) is not None:
                if info.size < 0:  # tarfile would seek back by it for ever
                    raise tarfile.ReadError(f"an entry of {info.size} bytes")
                yield info
                guarded.left = MAX_HEADER_BYTES
                # tarfile would keep all entries, and all global headers.
                archive.members.clear()  # type: ignore[attr-defined]
                archive.pax_headers = {}
            # tarfile takes an invalid or truncated header for the end of the archive.
            file.seek(archive.offset)
            if file.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError(f"no header and no end mark at byte {archive.offset}")
    # What tarfile raises on hostile headers beside its own errors.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, ValueError) as error:
        raise tarfile.ReadError(f"an invalid header: {error!r}") from None


class _GuardedTar:
    """Bounds what tarfile reads at once: it would read as much as a header claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.left = file, MAX_HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            offset = self._file.tell()
            raise tarfile.ReadError(f"a header of {size} bytes at byte {offset}, too long")
        return self._file.read(size)


class _GuardedZip:
    """Bounds what zipfile reads at once: it would read a central directory of any size."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a central directory of {size} bytes")
        content = self._file.read(size)
        if len(content) > CHUNK and content.count(b"PK\1\2") > MAX_ENTRIES:
            raise too_many_entries(self._path)
        return content


def max_archive_bytes() -> int:
    """Return the limit for an archive: its files uncompressed, and two headers for each."""
    return MAX_BYTES + MAX_ENTRIES * 2 * BLOCK


def _decompress(compressed: BinaryIO, path: Path, target: BinaryIO) -> None:
    """Write the content of a gzip file to `target`, unless it is a decompression bomb."""
    max_bytes = max_archive_bytes()
    compressed_size, written = os.fstat(compressed.fileno()).st_size, 0
    compressed.seek(0)
    with (
        gzip.GzipFile(fileobj=compressed) as file,
        tqdm(total=compressed_size, desc="decompress", unit="B", unit_scale=True) as bar,
    ):
        while chunk := file.read(CHUNK):
            written += len(chunk)
            consumed = compressed.tell()
            if is_bomb(written, consumed):
                raise DataError(
                    f"{path}: its first {consumed} bytes decompress to more than {MAX_RATIO} times "
                    "their size, unlike images; repack the folder"
                )
            if written > max_bytes:
                raise DataError(
                    f"{path}: decompresses to more than {max_bytes} bytes; use a smaller set"
                )
            target.write(chunk)
            bar.update(consumed - bar.n)
    target.flush()


def is_bomb(size: int, compressed_size: int) -> bool:
    """Return whether a size in bytes is one that no image decompresses to."""
    return size > MIN_BOMB_BYTES and size > MAX_RATIO * compressed_size


def too_many_entries(source: Path) -> DataError:
    """Return the error for a source with more than `MAX_ENTRIES`."""
    return DataError(f"{source}: more than {MAX_ENTRIES} entries; use a smaller set")


def refuse(source: Path, name: str, reason: str) -> DataError:
    """Return the error for an entry, by the name that the source has for it."""
    return DataError(f"{source}: entry '{one_line(name, 120)}' {reason}")
