"""Safe repacking of an untrusted folder, zip, tar or tar.gz into one plain tar file.

Nothing is ever extracted: no name from an archive reaches the file system. Every entry's name, kind
and size is checked before the first byte is written. The tar file's entries are sorted by name and
their metadata zero, so the same files give the same bytes from every kind of source.
"""

import errno
import gzip
import os
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from tqdm import tqdm

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.common.files import atomic_write

MAX_ENTRIES = 500_000  # files and folders
MAX_FILE_BYTES = 1 << 30  # of one file
MAX_BYTES = 1 << 36  # of all files together: 64 GiB
MAX_RATIO = 100  # of decompressed to compressed size; compressed images have 1 to 4
MIN_BOMB_BYTES = 1 << 26  # decompressed; anything smaller is never a bomb
MAX_NAME_BYTES = 4096  # of a path
MAX_DIRECTORY_BYTES = 1 << 28  # of a zip file's central directory
MAX_HEADER_BYTES = 1 << 15  # of all headers of one tar entry, a long name included
BLOCK = 512  # of a tar file
CHUNK = 1 << 18

IGNORED = frozenset({"__macosx", "thumbs.db", "desktop.ini"})  # beside names with a leading dot
DRIVES = frozenset("abcdefghijklmnopqrstuvwxyz")
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
REPACK = "repack the folder from inside it"


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
    """

    name: str
    kind: str
    size: int
    handle: Any
    compressed_size: int
    problem: str = ""


OpenContent = Callable[[Entry], AbstractContextManager[IO[bytes]]]


def pack(source: Path, target: Path) -> None:
    """Write the files of a folder or an archive to the tar file `target`.

    Leaves out hidden files and the clutter of file managers. Keeps folders without files, so that
    an empty class can be reported.

    Args:
        source: a folder, or a zip, tar or tar.gz file, detected by its first bytes.
        target: appears complete or not at all; a nameless temporary file may lie beside it.

    Raises:
        DataError: an entry, or the archive, is refused; then nothing is written.
    """
    with open_archive(source, target.parent) as (entries, open_content):
        chosen = choose(checked(entries, source))
        if not any(entry.kind == "file" for entry in chosen):
            raise DataError(f"{source}: it holds no files; put images there, one folder per class")
        total = sum(entry.size for entry in chosen)
        with (
            atomic_write(target) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as packed,
            tqdm(total=total, desc="pack", unit="B", unit_scale=True) as bar,
        ):
            for entry in chosen:
                info = tarfile.TarInfo(entry.name)  # with owner and times zero
                if entry.kind == "folder":
                    info.type = tarfile.DIRTYPE
                    packed.addfile(info)
                    continue
                info.size = entry.size
                try:
                    with open_content(entry) as content:
                        packed.addfile(info, content)
                except (EOFError, OSError) as error:
                    if getattr(error, "errno", None) is not None:
                        raise
                    damaged = "is damaged, or changed while it was read: run it again"
                    raise _refuse(source, entry.name, damaged) from None
                packed.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every one
                bar.update(entry.size)


def checked(entries: Iterable[Entry], source: Path) -> Iterator[Entry]:
    """Yield the entries under their normalized names, if their name, kind and size are safe.

    Raises:
        DataError: one is not safe; or there are too many entries or bytes.
    """
    seen: dict[str, tuple[str, bool]] = {}  # name on a case-insensitive disk -> (name, is a file)
    total = 0
    archive_size = source.stat().st_size if source.is_file() else None
    for number, entry in enumerate(entries):
        if number == MAX_ENTRIES:
            raise _too_many_entries(source)
        name = check_name(entry.name, source)
        if entry.kind == "file" and entry.name.endswith("/"):  # as some archives mark a folder
            entry = replace(entry, kind="folder")
        total += entry.size
        if problem := _find_problem(entry, total, archive_size):
            raise _refuse(source, entry.name, problem)
        parts = name.split("/")
        if not name or any(part.startswith(".") or part.lower() in IGNORED for part in parts):
            continue
        _check_collisions(seen, parts, entry.kind == "file", source)
        yield replace(entry, name=name)


def _find_problem(entry: Entry, total: int, archive_size: int | None) -> str:
    """Return why an entry is refused, or an empty string.

    Args:
        entry: the entry.
        total: bytes of all entries up to this one.
        archive_size: of the archive's file, in bytes; None for a folder.
    """
    if entry.kind not in ("file", "folder"):
        remedy = "replace it by the file" if "link" in entry.kind else "remove it"
        return f"is {entry.kind}; {remedy}"
    if entry.problem:
        return entry.problem
    if entry.size > MAX_FILE_BYTES:
        return f"has {entry.size} bytes, more than {MAX_FILE_BYTES}; remove it"
    if _is_bomb(entry.size, entry.compressed_size):
        sizes = f"{entry.compressed_size} bytes to {entry.size}"
        return f"decompresses {sizes}, unlike any image; remove it"
    if total > MAX_BYTES:
        return f"brings the total to more than {MAX_BYTES} bytes; use a smaller set"
    if archive_size is not None and _is_bomb(total, archive_size):
        ratio = f"{archive_size} compressed bytes to more than {MAX_RATIO} times their size"
        return f"brings {ratio}, unlike images; repack the folder"
    return ""


def check_name(name: str, source: Path) -> str:
    """Return a normalized name: relative, no `.` parts, composed Unicode (NFC).

    Raises:
        DataError: it points outside the folder, is absolute, or is not portable.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # Python's surrogate escapes for bytes that are not UTF-8
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise _refuse(source, shown, "has a name that is not UTF-8; rename it") from None
    if size > MAX_NAME_BYTES:
        raise _refuse(source, name, f"has a path longer than {MAX_NAME_BYTES} bytes; shorten it")
    if name.startswith(("/", "\\")) or (name[1:2] == ":" and name[0].lower() in DRIVES):
        raise _refuse(source, name, f"is an absolute path; {REPACK}")
    if ".." in name.replace("\\", "/").split("/"):
        raise _refuse(source, name, f"points outside the folder (`..`); {REPACK}")
    if "\\" in name:
        raise _refuse(source, name, "has a backslash in its name; rename it, or use `zip -r`")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise _refuse(source, name, "has a control character in its name; rename it")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts))


def choose(entries: Iterable[Entry]) -> list[Entry]:
    """Return the files, and the folders without any, sorted by name."""
    named = {entry.name: entry for entry in entries}
    above: set[str] = set()
    for name in named:
        while (name := name.rpartition("/")[0]) and name not in above:
            above.add(name)
    return [named[name] for name in sorted(named.keys() - above)]


def _check_collisions(
    seen: dict[str, tuple[str, bool]], parts: list[str], is_file: bool, source: Path
) -> None:
    """Record an entry and its parents; refuse one that a disk would confuse with another."""
    for depth in range(1, len(parts) + 1):
        name, file = "/".join(parts[:depth]), is_file and depth == len(parts)
        folded = unicodedata.normalize("NFC", name.casefold())
        if folded not in seen:
            seen[folded] = name, file
            continue
        known, known_file = seen[folded]
        if known != name:
            problem = f"differs from {known!r} only in case or accent encoding; rename one of them"
            raise _refuse(source, name, problem)
        if known_file != file:
            raise _refuse(source, name, f"is both a file and a folder; {REPACK}")
        if file:
            raise _refuse(source, name, f"occurs twice; {REPACK}")


def _is_bomb(size: int, compressed_size: int) -> bool:
    return size > MIN_BOMB_BYTES and size > MAX_RATIO * compressed_size


def _refuse(source: Path, name: str, reason: str) -> DataError:
    return DataError(f"{source}: entry '{one_line(name, 120)}' {reason}")


# The readers of the four kinds of source.


@contextmanager
def open_archive(path: Path, temporary: Path) -> Iterator[tuple[Iterator[Entry], OpenContent]]:
    """Open a folder or an archive, whose kind is detected by its first bytes.

    Yields all entries, in any order, and a function that opens the content of a file.

    Args:
        path: of the folder or archive.
        temporary: the folder for a nameless temporary file.

    Raises:
        DataError: there is nothing at `path`, or it cannot be opened; or reading the archive fails
            in the block.
    """
    remedy = "get it again, or repack the folder"
    try:
        if path.is_dir():
            yield (
                _folder_entries(path),
                lambda entry: _open_regular_file(path / entry.handle, entry.size),
            )
            return
        if not path.is_file():
            what = "neither a folder nor a file" if path.exists() else "not found"
            raise DataError(
                f"{path}: {what}; set download.folder.path to a folder of images, or to an archive"
            )
        with ExitStack() as stack:
            file: BinaryIO = stack.enter_context(path.open("rb"))
            start = file.read(4)
            if start in (b"PK\3\4", b"PK\5\6"):
                guarded = cast("IO[bytes]", _GuardedZip(file, path))
                archive = zipfile.ZipFile(guarded, metadata_encoding="utf-8")
                stack.enter_context(archive)
                yield _zip_entries(archive), lambda entry: archive.open(entry.handle)
                return
            if start[:2] == b"\x1f\x8b":
                temporary.mkdir(parents=True, exist_ok=True)
                decompressed = stack.enter_context(tempfile.TemporaryFile(dir=temporary))
                _decompress(file, path, decompressed)
                file = decompressed

            def content(entry: Entry) -> AbstractContextManager[IO[bytes]]:
                file.seek(entry.handle)
                return nullcontext(file)

            yield _tar_entries(file), content
    except tarfile.TarError as error:
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
            raise _refuse(path, error.filename, problem) from None
        if error.errno not in (None, errno.EINVAL):  # gzip's own, or a seek before byte 0
            raise
        raise DataError(f"{path}: not a valid archive ({one_line(error)}); {remedy}") from None


def _folder_entries(path: Path) -> Iterator[Entry]:
    """Walk a local folder; skip hidden folders, and follow no links."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(path / prefix) as found:
            for item in found:
                if item.name.startswith("."):
                    continue
                name, status = prefix + item.name, item.stat(follow_symlinks=False)
                kind = KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
                if kind == "folder":
                    pending.append(f"{name}/")
                size = status.st_size if kind == "file" else 0
                yield Entry(name, kind, size, name, size)


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
            raise _too_many_entries(self._path)
        return content


def _too_many_entries(source: Path) -> DataError:
    return DataError(f"{source}: more than {MAX_ENTRIES} entries; use a smaller set")


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
            if _is_bomb(written, consumed):
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
