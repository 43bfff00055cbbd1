"""A folder, a zip, a tar or a tar.gz of files nobody has vetted, brought into one plain tar file.

Nothing is ever extracted: no name from an archive reaches the file system. Every entry's name, kind
and size is checked before the first byte is written, and the one file that is written has its
entries sorted by name and all metadata zero, so the same files give the same bytes, whatever they
came in.
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
MAX_RATIO = 100  # bytes from one packed byte; images are packed already, and give one to four
RATIO_FROM = 1 << 26  # bytes; no less is called a bomb
MAX_NAME_BYTES = 4096  # of a path
MAX_DIRECTORY_BYTES = 1 << 28  # of a zip file's list of its entries
MAX_HEADER_BYTES = 1 << 15  # of all that a tar file says of one entry, a long name included
BLOCK = 512  # of a tar file
CHUNK = 1 << 18

IGNORED = frozenset({"__macosx", "thumbs.db", "desktop.ini"})  # and all that begins with a dot
TOP_IGNORED = frozenset({"readme", "readme.md", "readme.txt", "readme.rst"})
DRIVES = frozenset("abcdefghijklmnopqrstuvwxyz")
ENCRYPTED = 0x2041  # flag bits of a zip entry: encrypted, strongly so, its headers masked
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
    b"D": "folder",  # of GNU's incremental backups
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a fifo",
}
PACK_ANEW = "pack the folder anew from inside it"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a source holds under a name.

    Attributes:
        name: its path in the source, as it is written there; checked, once `check_name` gave it.
        kind: `file`, `folder`, or words for what else it is.
        size: in bytes.
        place: what the source finds its content by.
        packed: the bytes it takes in the source.
        flaw: why it cannot be read, though it is a file, and what to do; or empty.
    """

    name: str
    kind: str
    size: int
    place: Any
    packed: int
    flaw: str = ""


# Every entry of a source, in any order, without its content; and what opens an entry's content.
Source = tuple[Iterator[Entry], Callable[[Entry], AbstractContextManager[IO[bytes]]]]


def pack(source: Path, target: Path) -> None:
    """Bring the files of a folder or an archive into the tar file `target`.

    Hidden files, what file managers leave, and a README at the top are left out, and so is a single
    folder that wraps all others. Folders without files are kept, so that an empty class is told.

    Args:
        source: a folder, or a zip, tar or tar.gz file; which, its first bytes tell.
        target: appears whole or not at all; beside it, a nameless temporary file at most.

    Raises:
        DataError: an entry, or the archive, is refused; nothing has been written then.
    """
    with open_source(source, target.parent) as (entries, opened):
        chosen = choose(checked(entries, source))
        if not any(entry.kind == "file" for entry in chosen):
            raise DataError(
                f"{source}: there are no files in it; put images there, one folder per class"
            )
        total = sum(entry.size for entry in chosen)
        with (
            atomic_write(target) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as packed,
            tqdm(total=total, desc="pack", unit="B", unit_scale=True) as bar,
        ):
            for entry in chosen:
                info = tarfile.TarInfo(entry.name)  # whose owner and times are zero
                if entry.kind == "folder":
                    info.type = tarfile.DIRTYPE
                    packed.addfile(info)
                    continue
                info.size = entry.size
                try:
                    with opened(entry) as content:
                        packed.addfile(info, content)
                except (EOFError, OSError) as error:
                    if getattr(error, "errno", None) is not None:
                        raise
                    damaged = "is damaged, or was changed meanwhile: run it again"
                    raise _refusal(source, entry.name, damaged) from None
                packed.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all
                bar.update(entry.size)


def checked(entries: Iterable[Entry], source: Path) -> Iterator[Entry]:
    """Pass on entries whose name, kind and size are harmless, under their normal names.

    Raises:
        DataError: one is not; or there are too many, or too much together.
    """
    seen: dict[str, tuple[str, bool]] = {}  # what a disk that knows no case sees -> name, is a file
    total = 0
    archive_size = source.stat().st_size if source.is_file() else None
    for number, entry in enumerate(entries):
        if number == MAX_ENTRIES:
            raise _too_many(source)
        name = check_name(entry.name, source)
        if entry.kind not in ("file", "folder"):
            remedy = "put the file itself there" if "link" in entry.kind else "leave it out"
            raise _refusal(source, entry.name, f"is {entry.kind}; {remedy}")
        if entry.flaw:
            raise _refusal(source, entry.name, entry.flaw)
        if entry.size > MAX_FILE_BYTES:
            raise _refusal(
                source,
                entry.name,
                f"has {entry.size} bytes, more than {MAX_FILE_BYTES}; leave it out",
            )
        if _is_bomb(entry.size, entry.packed):
            raise _refusal(
                source,
                entry.name,
                f"unpacks {entry.packed} bytes to {entry.size}, as no image does; leave it out",
            )
        total += entry.size
        if total > MAX_BYTES:
            raise _refusal(
                source,
                entry.name,
                f"brings the files to more than {MAX_BYTES} bytes; use a smaller set",
            )
        if archive_size is not None and _is_bomb(total, archive_size):
            raise _refusal(
                source,
                entry.name,
                f"brings what {archive_size} bytes unpack to beyond "
                f"{MAX_RATIO} times as much, as no images do; pack the folder anew",
            )
        parts = name.split("/")
        if not name or any(part.startswith(".") or part.lower() in IGNORED for part in parts):
            continue
        _check_collisions(seen, parts, entry.kind == "file", source)
        yield replace(entry, name=name)


def check_name(name: str, source: Path) -> str:
    """Return a name in its normal form: relative, no `.` parts, composed characters.

    Raises:
        DataError: it leaves the folder, is absolute, or is not portable.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # the bytes that are no UTF-8, as Python keeps them in a string
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise _refusal(source, shown, "has a name that is not UTF-8; rename it") from None
    if size > MAX_NAME_BYTES:
        raise _refusal(source, name, f"has a path longer than {MAX_NAME_BYTES} bytes; shorten it")
    if name.startswith(("/", "\\")) or (name[1:2] == ":" and name[0].lower() in DRIVES):
        raise _refusal(source, name, f"is an absolute path; {PACK_ANEW}")
    if ".." in name.replace("\\", "/").split("/"):
        raise _refusal(source, name, f"leads out of the folder (`..`); {PACK_ANEW}")
    if "\\" in name:
        raise _refusal(
            source,
            name,
            "has a backslash in its name; rename it, or pack the folder "
            "with a program that writes /",
        )
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise _refusal(source, name, "has a control character in its name; rename it")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts))


def choose(entries: Iterable[Entry]) -> list[Entry]:
    """Return the files, and the folders that have none, sorted by name.

    A README at the top is left out, and so are folders that wrap all others.
    """
    names = [(entry.name, entry) for entry in entries]
    above: set[str] = set()
    for name, _ in names:
        while (name := name.rpartition("/")[0]) and name not in above:
            above.add(name)
    names = [item for item in names if item[0] not in above]
    while True:
        names = [item for item in names if item[0].lower() not in TOP_IGNORED]
        tops = {name.partition("/")[0] for name, _ in names}
        if len(tops) != 1 or not any(name.count("/") > 1 for name, _ in names):
            break
        names = [(name.partition("/")[2], entry) for name, entry in names]
    return [replace(entry, name=name) for name, entry in sorted(names, key=lambda item: item[0])]


def _check_collisions(
    seen: dict[str, tuple[str, bool]], parts: list[str], is_file: bool, source: Path
) -> None:
    """Note an entry and the folders above it; refuse it where a disk would mix it with another."""
    for depth in range(1, len(parts) + 1):
        name, file = "/".join(parts[:depth]), is_file and depth == len(parts)
        folded = unicodedata.normalize("NFC", name.casefold())
        if folded not in seen:
            seen[folded] = name, file
            continue
        known, known_file = seen[folded]
        if known != name:
            raise _refusal(
                source,
                name,
                f"differs from {known!r} in nothing but case, or the way that accents are written; "
                "rename one of them",
            )
        if known_file != file:
            raise _refusal(source, name, f"is both a file and a folder; {PACK_ANEW}")
        if file:
            raise _refusal(source, name, f"occurs twice; {PACK_ANEW}")


def _is_bomb(size: int, packed: int) -> bool:
    return size > RATIO_FROM and size > MAX_RATIO * packed


def _refusal(source: Path, name: str, reason: str) -> DataError:
    return DataError(f"{source}: entry '{one_line(name, 120)}' {reason}")


# The four sources.


@contextmanager
def open_source(path: Path, temporary: Path) -> Iterator[Source]:
    """Open a folder or an archive, of a kind that its first bytes tell.

    Args:
        path: of the folder or archive.
        temporary: the folder in which a nameless temporary file may lie meanwhile.

    Raises:
        DataError: there is nothing at `path`, or nothing that can be opened; what goes wrong in the
            block with reading an archive is wrong with it.
    """
    remedy = "get it again, or pack the folder anew"
    try:
        if path.is_dir():
            yield _folder_entries(path), lambda entry: _open_plainly(path / entry.place, entry.size)
            return
        if not path.is_file():
            what = "not a folder or file" if path.exists() else "not found"
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
                yield _zip_entries(archive), lambda entry: archive.open(entry.place)
                return
            if start[:2] == b"\x1f\x8b":
                temporary.mkdir(parents=True, exist_ok=True)
                unpacked = stack.enter_context(tempfile.TemporaryFile(dir=temporary))
                _unpack(file, path, unpacked)
                file = unpacked

            def content(entry: Entry) -> AbstractContextManager[IO[bytes]]:
                file.seek(entry.place)
                return nullcontext(file)

            yield _tar_entries(file), content
    except tarfile.TarError as error:
        reason = f"no whole zip, tar or tar.gz file ({one_line(error)})"
        raise DataError(f"{path}: {reason}; {remedy}") from None
    except UnicodeDecodeError as error:
        shown = ascii(error.object)[:120]
        raise DataError(f"{path}: entry {shown} has a name that is not UTF-8; rename it") from None
    except (EOFError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: no whole archive ({one_line(error)}); {remedy}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DataError(
                f"{path}: entry '{one_line(error.filename, 120)}' has a path that is too long for "
                "this system; shorten it"
            ) from None
        if error.errno not in (None, errno.EINVAL):  # of gzip's own making; a place before byte 0
            raise
        raise DataError(f"{path}: no whole archive ({one_line(error)}); {remedy}") from None


def _folder_entries(path: Path) -> Iterator[Entry]:
    """Look through a folder on this machine; enter no hidden folder, and follow no link."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(path / prefix) as found:
            for item in found:
                if item.name.startswith("."):
                    continue
                name, status = prefix + item.name, item.stat(follow_symlinks=False)
                kind = KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
                if kind == "folder":
                    waiting.append(f"{name}/")
                size = status.st_size if kind == "file" else 0
                yield Entry(name, kind, size, name, size)


def _open_plainly(path: Path, size: int) -> IO[bytes]:
    """Open a file, unless it has become a link or a fifo since it was seen, or changed its size."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = open(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb")  # noqa: PTH123, SIM115
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        raise EOFError
    return file


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[Entry]:
    """Go through a zip file's list. Source of the format: PKWARE's APPNOTE.TXT."""
    for info in archive.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        name = info.orig_filename  # the other one ends at a zero byte
        kind = KINDS.get(mode or stat.S_IFREG, "of an unknown kind")
        if kind == "file" and name.endswith("/"):
            kind = "folder"
        flaw = ""
        if info.flag_bits & ENCRYPTED:
            flaw = "is encrypted; pack the folder anew, without a password"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Python unpacks the other ways without a bound on memory.
            flaw = "is packed in another way than deflate; pack the folder anew (`zip -r`)"
        yield Entry(name, kind, info.file_size, info, info.compress_size, flaw)


def _tar_entries(file: BinaryIO) -> Iterator[Entry]:
    for info in read_tar(file):
        kind = "file" if info.isreg() else f"of the unknown type {info.type!r}"
        kind = "a sparse file" if info.issparse() else TAR_KINDS.get(info.type, kind)
        if kind == "file" and info.name.endswith("/"):
            kind = "folder"
        yield Entry(info.name, kind, info.size, info.offset_data, info.size)


def read_tar(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Read the entries of a tar file that is not packed, headers only.

    Memory does not grow with their number, nor with what a header claims.

    Raises:
        tarfile.TarError: the file is torn, or no tar file. Entries before the damage have been
            given by then.
    """
    guarded = _GuardedTar(file)
    file.seek(0)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", guarded), mode="r:") as archive:
            while (info := archive.next()) is not None:
                if info.size < 0:  # tarfile would go back by it, again and again
                    raise tarfile.ReadError(f"an entry of {info.size} bytes")
                yield info
                guarded.left = MAX_HEADER_BYTES
                # tarfile keeps them all, and what is said of all that follow.
                archive.members.clear()  # type: ignore[attr-defined]
                archive.pax_headers = {}
            # A header that is none, or torn, ends tarfile's reading as an end mark does.
            file.seek(archive.offset)
            if file.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError(f"no header and no end mark at byte {archive.offset}")
    # What a hostile header makes of tarfile beside its own errors.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, ValueError) as error:
        raise tarfile.ReadError(f"a header that cannot be understood: {error!r}") from None


class _GuardedTar:
    """What tarfile reads from: it takes in at once as much as a header claims to have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.left = file, MAX_HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            place = self._file.tell()
            raise tarfile.ReadError(f"a header of {size} bytes at byte {place}, too long")
        return self._file.read(size)


class _GuardedZip:
    """What zipfile reads from: it takes in the list of all entries at once, however many."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a list of entries of {size} bytes")
        content = self._file.read(size)
        if len(content) > CHUNK and content.count(b"PK\1\2") > MAX_ENTRIES:
            raise _too_many(self._path)
        return content


def _too_many(source: Path) -> DataError:
    return DataError(f"{source}: more than {MAX_ENTRIES} entries; use a smaller set")


def most_packed_bytes() -> int:
    """Return how large an archive may be: its files, stored, and two headers for each."""
    return MAX_BYTES + MAX_ENTRIES * 2 * BLOCK


def _unpack(packed: BinaryIO, path: Path, target: BinaryIO) -> None:
    """Write what a gzip file holds to `target`, as long as it is no bomb."""
    most = most_packed_bytes()
    packed_size, written = os.fstat(packed.fileno()).st_size, 0
    packed.seek(0)
    with (
        gzip.GzipFile(fileobj=packed) as file,
        tqdm(total=packed_size, desc="unpack", unit="B", unit_scale=True) as bar,
    ):
        while chunk := file.read(CHUNK):
            written += len(chunk)
            taken = packed.tell()
            if _is_bomb(written, taken):
                raise DataError(
                    f"{path}: its first {taken} bytes unpack to more than {MAX_RATIO} times as "
                    "much, as no images do; pack the folder anew"
                )
            if written > most:
                raise DataError(f"{path}: unpacks to more than {most} bytes; use a smaller set")
            target.write(chunk)
            bar.update(taken - bar.n)
    target.flush()
