"""Safe repacking of an untrusted folder, zip, tar or tar.gz into one plain tar file.

Nothing is ever extracted: no name from an archive reaches the file system. Every entry's name, kind
and size is checked before the first byte is written. The tar file's entries are sorted by name and
their metadata zero, so the same files give the same bytes from every kind of source.
"""

import tarfile
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.common.files import atomic_write
from image_pipeline.downloading import sources
from image_pipeline.downloading.clutter import count_by_name, is_clutter
from image_pipeline.downloading.sources import (
    AGAIN,
    Entry,
    is_bomb,
    open_source,
    refuse,
    too_many_entries,
)
from image_pipeline.downloading.unsupported import describe_contents

MAX_FILE_BYTES = 1 << 30  # of one file
MAX_NAME_BYTES = 4096  # of a path

DRIVES = frozenset("abcdefghijklmnopqrstuvwxyz")
MAX_NAMED = 5  # changed files
REPACK = "repack the folder from inside it"


def pack(source: Path, target: Path) -> None:
    """Write the files of a folder or an archive to the tar file `target`.

    Leaves out hidden files and clutter, and counts them. Keeps folders without files, so that an
    empty class can be reported.

    Args:
        source: a folder, or a zip, tar or tar.gz file, detected by its first bytes.
        target: appears complete or not at all; a nameless temporary file may lie beside it.

    Raises:
        DataError: an entry, or the archive, is refused, or changed meanwhile; then nothing is
            written.
    """
    left_out: set[str] = set()
    with open_source(source, target.parent) as opened:
        found = list(checked(opened.entries, source, left_out))
        if left_out:
            names = count_by_name(left_out)
            tqdm.write(f"download: {source}: left out by name, {len(left_out)} in all: {names}")
        if problem := describe_contents(entry.name for entry in found if entry.kind == "file"):
            raise DataError(f"{source}: {problem}")
        chosen = choose(found)
        if not any(entry.kind == "file" for entry in chosen):
            raise DataError(f"{source}: it holds no files; put images there, one folder per class")
        _tell_of_case(chosen, source)
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
                    with opened.open_content(entry) as content:
                        packed.addfile(info, content)
                except (EOFError, OSError) as error:
                    if getattr(error, "errno", None) is not None:
                        raise
                    damaged = "is damaged, or changed while it was read: run it again"
                    raise refuse(source, entry.name, damaged) from None
                packed.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every one
                bar.update(entry.size)
            # DVC hashes what a stage depends on after the stage, so it would take the new files for
            # those that were packed, and never pack them.
            if changed := opened.find_changes():
                what = ", ".join(one_line(name, 100) for name in changed[:MAX_NAMED])
                more = f" and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
                raise DataError(f"{source}: changed while it was packed: {what}{more}; {AGAIN}")


def checked(entries: Iterable[Entry], source: Path, left_out: set[str]) -> Iterator[Entry]:
    """Yield the entries under their normalized names, if their name, kind and size are safe.

    Args:
        entries: of the source.
        source: for error messages.
        left_out: the paths of hidden files and clutter are added; folders stand for all in them.

    Raises:
        DataError: one is not safe; or there are too many entries or bytes.
    """
    seen: dict[str, str] = {}  # normalized name -> the source's own of a file, "" of a folder
    total = 0
    archive_size = source.stat().st_size if source.is_file() else None
    for number, entry in enumerate(entries):
        if number == sources.MAX_ENTRIES:
            raise too_many_entries(source)
        name = check_name(entry.name, source)
        parts = name.split("/")
        depth = next((depth for depth, part in enumerate(parts, 1) if is_clutter(part)), 0)
        if depth:
            left_out.add("/".join(parts[:depth]))
            continue
        if entry.kind == "file" and entry.name.endswith("/"):  # as some archives mark a folder
            entry = replace(entry, kind="folder")
        total += entry.size
        if problem := _find_problem(entry, total, archive_size):
            raise refuse(source, entry.name, problem)
        if name:
            _check_collisions(seen, parts, entry, source)
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
    if is_bomb(entry.size, entry.compressed_size):
        sizes = f"{entry.compressed_size} bytes to {entry.size}"
        return f"decompresses {sizes}, unlike any image; remove it"
    if total > sources.MAX_BYTES:
        return f"brings the total to more than {sources.MAX_BYTES} bytes; use a smaller set"
    if archive_size is not None and is_bomb(total, archive_size):
        ratio = f"{archive_size} compressed bytes to more than {sources.MAX_RATIO} times their size"
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
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise refuse(source, shown, "has a name that is not UTF-8; rename it") from None
    if size > MAX_NAME_BYTES:
        raise refuse(source, name, f"has a path longer than {MAX_NAME_BYTES} bytes; shorten it")
    if name.startswith(("/", "\\")) or (name[1:2] == ":" and name[0].lower() in DRIVES):
        raise refuse(source, name, f"is an absolute path; {REPACK}")
    if ".." in name.replace("\\", "/").split("/"):
        raise refuse(source, name, f"points outside the folder (`..`); {REPACK}")
    if "\\" in name:
        raise refuse(source, name, "has a backslash in its name; rename it, or use `zip -r`")
    shown = f"/{name}".removesuffix("/Icon\r")  # macOS's picture of a folder, which is left out
    if any(ord(character) < 32 or ord(character) == 127 for character in shown):
        raise refuse(source, name, "has a control character in its name; rename it")
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


def _check_collisions(seen: dict[str, str], parts: list[str], entry: Entry, source: Path) -> None:
    """Record an entry and its parents; refuse a file that is there twice, or is a folder, too."""
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth])
        own = entry.name if entry.kind == "file" and depth == len(parts) else ""
        if name not in seen:
            seen[name] = own
        elif bool(seen[name]) != bool(own):
            raise refuse(source, name, f"is both a file and a folder; {REPACK}")
        elif own:
            same = unicodedata.normalize("NFC", seen[name]) == unicodedata.normalize("NFC", own)
            accents = "its accents are encoded in two ways: rename one of them"
            remedy = accents if same and seen[name] != own else REPACK
            raise refuse(source, name, f"occurs twice; {remedy}")


def _tell_of_case(chosen: Iterable[Entry], source: Path) -> None:
    """Say which names a file system that ignores case would take for the same."""
    seen: dict[str, str] = {}  # name on such a file system -> name
    pairs: dict[str, str] = {}
    for entry in chosen:
        parts = entry.name.split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            known = seen.setdefault(unicodedata.normalize("NFC", name.casefold()), name)
            if known != name:
                pairs[name] = known  # and all that is in the folder
                break
    if pairs:
        name, known = next(iter(pairs.items()))
        tqdm.write(
            f"download: {source}: '{one_line(known, 60)}' and '{one_line(name, 60)}' differ only "
            f"in case (such pairs: {len(pairs)}); a clone on a system that ignores case (Windows, "
            "macOS) can't hold both"
        )
