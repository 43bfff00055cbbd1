"""Tar files, as plain and as strict as can be: regular files and folders, and nothing else.

Python's `tarfile` forgives much, takes many times as long per entry, keeps each in memory, and
reads a header as long as the file claims it is. Sources of the format: POSIX.1-2017, `pax`; GNU
tar's manual, "Basic Tar Format".
"""

import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
MOST_NAME_BYTES = 4096  # of a path, and of a header that holds one
NOTHING = bytes(BLOCK)
END = 2 * NOTHING
ADLER = 65521  # adler32 begins with the sum of all bytes, plus one, modulo this
LINKS = {b"1": "a hard link", b"2": "a symbolic link"}
SPECIAL = {
    b"3": "a device",
    b"4": "a device",
    b"6": "a fifo",
    b"7": "a file of a kind that tar calls contiguous",
    b"S": "a sparse file",
    b"M": "the rest of a file from another volume",
}
FILES = (b"0", b"\0")
FOLDERS = (b"5", b"D")


class TarError(Exception):
    """The file is torn, or no tar file; the message says what was found, and where."""


class TarEntry(NamedTuple):
    """What a tar file holds under a name.

    Attributes:
        name: as its bytes are.
        kind: `file`, `folder`, or words for what else it is.
        offset: of its content in the tar file.
        size: of its content, in bytes, as the header says.
    """

    name: bytes
    kind: str
    offset: int
    size: int


def header(name: str, size: int) -> bytes:
    """Return the header of a regular file, all that is not its name and size being zero."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def padding(size: int) -> bytes:
    """Return the zeros that end the last block of a content of `size` bytes."""
    return bytes(-size % BLOCK)


def read_entries(descriptor: int) -> Iterator[TarEntry]:
    """Read the entries of an open tar file, headers only.

    Memory does not grow with their number, nor with what a header claims.

    Args:
        descriptor: of the file, which may be positioned anywhere.

    Raises:
        TarError: see there. Entries before the damage have been given by then.
    """
    end = os.fstat(descriptor).st_size
    position = 0
    long_name: bytes | None = None
    long_size: int | None = None
    while True:
        block = os.pread(descriptor, BLOCK, position)
        if len(block) < BLOCK:
            raise TarError(f"it ends at byte {end}, before its end mark")
        if block == NOTHING:
            return
        if not _is_header(block):
            raise TarError(f"no tar header at byte {position}, where one is expected")
        size, kind = _number(block[124:136], position), block[156:157]
        position += BLOCK
        if kind in (b"L", b"x", b"g", b"K"):  # tells of the next entry, or (g) of all
            if size > MOST_NAME_BYTES * 4:
                raise TarError(f"a header of {size} bytes at byte {position}, too long for a name")
            content = os.pread(descriptor, size, position)
            if len(content) < size:
                raise TarError(f"it ends at byte {end}, in the middle of a header")
            position += size + -size % BLOCK
            if kind == b"L":
                long_name = content.rstrip(b"\0")
            elif kind == b"x":
                records = _pax_records(content, position)
                long_name = records.get(b"path", long_name)
                if b"size" in records:
                    long_size = _decimal(records[b"size"], position)
                if any(key.startswith(b"GNU.sparse") for key in records):
                    raise TarError(f"a sparse file at byte {position}")
            continue
        name = block[:100].split(b"\0")[0]
        if block[257:263] == b"ustar\0" and block[345]:
            name = block[345:500].split(b"\0")[0] + b"/" + name
        name = name if long_name is None else long_name
        size = size if long_size is None else long_size
        long_name = long_size = None
        if kind in FOLDERS or (kind in FILES and name.endswith(b"/")):
            yield TarEntry(name, "folder", position, 0)
        elif kind in FILES:
            yield TarEntry(name, "file", position, size)
        else:
            words = LINKS.get(kind) or SPECIAL.get(kind) or f"of the unknown type {kind!r}"
            yield TarEntry(name, words, position, size)
        position += size + -size % BLOCK
        if position > end:
            raise TarError(f"it ends at byte {end}, in the middle of an entry")


def _is_header(block: bytes) -> bool:
    """Compare the sum of a header's bytes, its own field taken for blanks, with that field."""
    told = block[148:156]
    digits = told.split(b"\0")[0].strip()
    if not digits or digits.strip(b"01234567"):
        return False
    total = int(digits, 8) + sum(told) - 8 * 0x20
    return (zlib.adler32(block) & 0xFFFF) == (total + 1) % ADLER


def _number(field: bytes, position: int) -> int:
    if field[0] & 0x80:  # GNU's way to write what octal digits have no room for
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise TarError(f"no tar header at byte {position}, where one is expected")
    return int(digits, 8) if digits else 0


def _decimal(digits: bytes, position: int) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise TarError(f"a size that is no number before byte {position}")
    return int(digits)


def _pax_records(content: bytes, position: int) -> dict[bytes, bytes]:
    """Take apart `<length> <key>=<value>` records, one after the other."""
    records = {}
    while content.strip(b"\0"):
        length, blank, _ = content.partition(b" ")
        taken = int(length) if length.isdigit() and len(length) < 6 else 0
        key, equals, value = content[len(length) + 1 : taken].partition(b"=")
        if not blank or not equals or taken > len(content) or value[-1:] != b"\n":
            raise TarError(f"a header that cannot be understood before byte {position}")
        records[key] = value[:-1]
        content = content[taken:]
    return records
