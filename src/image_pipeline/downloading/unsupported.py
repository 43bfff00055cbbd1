"""What a file is that is no zip, tar or tar.gz file, and what to do with it.

By its first bytes, as a name can lie. For the files within an archive by their names, and only if
none of them can be an image.
"""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from image_pipeline.common.errors import one_line

CONVERT = "write each image of it to a file, in one folder per class"
CONVERT_IT = f", which is not supported; {CONVERT}"
UNPACK = (
    ", which is not supported; unpack it and name the folder, or repack that as zip, tar or tar.gz"
)
SPLIT_ZIP = "a part of a split zip, or a zip with something before it"
JOIN = "; make it whole: `zip -s 0 name.zip --out whole.zip`, or unpack it and name the folder"
LINE_BYTES = 1 << 18  # of a table's first lines
SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (rb"BZh[1-9]1AY&SY", "compressed by bzip2", UNPACK),
    (rb"\xfd7zXZ\0", "compressed by xz", UNPACK),
    (rb"\x5d\0\0.{2}", "compressed by lzma", UNPACK),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd", UNPACK),
    (rb"\x04\x22\x4d\x18", "compressed by lz4", UNPACK),
    (rb"LZIP", "compressed by lzip", UNPACK),
    (rb"\x1f[\x9d\xa0]", "compressed by compress", UNPACK),
    (rb"MSCF", "a cabinet archive", UNPACK),
    (rb"MZ", "a Windows program", UNPACK),
    (rb"PK\x07\x08", SPLIT_ZIP, JOIN),
    (rb"\x89HDF\r\n\x1a\n|MATLAB 7\.3", "an HDF5 file", CONVERT_IT),
    (rb"MATLAB 5\.0 MAT-file", "a MATLAB file", CONVERT_IT),
    (rb"\x93NUMPY", "a NumPy array", CONVERT_IT),
    (rb"PAR1", "a Parquet file", CONVERT_IT),
    (rb"ARROW1|FEA1", "an Arrow file", CONVERT_IT),
    (rb"SQLite format 3\0", "an SQLite database", CONVERT_IT),
    (rb"\x80[\x02-\x05][(.\]c}\x8c\x95]", "a Python pickle", CONVERT_IT),
    (rb"\0\0[\x08-\x0e][\x01-\x04]", "an IDX file", CONVERT_IT),
    (rb"%PDF-", "a PDF file", "; save its pictures as image files, in one folder per class"),
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\0\0\0\0|RIFF.{4}WEBP|II\*\0|MM\0\*",
        "a single image",
        "; name the folder that holds one folder of images per class",
    ),
    (
        rb"version https://git-lfs",
        "only Git LFS's pointer to the file",
        "; run `git lfs pull` where it came from",
    ),
    (
        rb"(?i)\s*(<!doctype html|<html|<head|<!--)",
        "a web page: perhaps a login or an error",
        "; download the archive in a browser, and name that file",
    ),
    (
        rb"\s*<\?xml|\s*<Error>",
        "an XML document: perhaps a server's error",
        "; download the archive in a browser, and name that file",
    ),
    (
        rb'\s*[{\[]\s*["{\[}\]\d]',
        "a JSON document: perhaps a server's error",
        "; download the archive in a browser, and name that file",
    ),
)
ARCHIVES = frozenset(
    (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".lzma")
)
TABLES = frozenset(
    (
        *(".csv", ".tsv", ".json", ".xml", ".xlsx", ".parquet", ".arrow", ".feather", ".db"),
        *(".npy", ".npz", ".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".tfrecord", ".mdb", ".pdf"),
    )
)
NOTES = frozenset((".txt", ".md", ".rst", ".html", ".docx"))  # may be beside them
MAX_NAMED = 3


def describe_unsupported(start: bytes) -> str:
    """Return what a file is that starts with these bytes, and what to do; or an empty string."""
    start = start.removeprefix(b"\xef\xbb\xbf")
    for signature, what, remedy in SIGNATURES:
        if re.match(signature, start, re.DOTALL):
            return f"it is {what}{remedy}"
    columns = _count_columns(start)
    if columns > 1:
        return f"it is a table of {columns} columns{CONVERT_IT} (docs/data-sets.md has the lines)"
    return ""


def describe_contents(names: Iterable[str]) -> str:
    """Return why files of these names can't be images, and what to do; or an empty string."""
    by_kind: dict[frozenset[str], list[str]] = {ARCHIVES: [], TABLES: []}
    for name in names:
        suffix = PurePosixPath(name).suffix.lower()
        kind = next((kind for kind in by_kind if suffix in kind), None)
        if kind:
            by_kind[kind].append(name)
        elif suffix not in NOTES:
            return ""
    for kind, problem in (
        (ARCHIVES, "archives in it are not opened; unpack them and name the folder"),
        (
            TABLES,
            f"tables and arrays are not supported; {CONVERT} (docs/data-sets.md has the lines)",
        ),
    ):
        if found := sorted(by_kind[kind]):
            shown = ", ".join(one_line(name, 60) for name in found[:MAX_NAMED])
            more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
            return f"it holds no images, only {shown}{more}; {problem}"
    return ""


def _count_columns(start: bytes) -> int:
    """Return the columns of a table in text; 0 for anything else."""
    lines = start[:LINE_BYTES].split(b"\n")
    if b"\0" in start or len(lines) < 2 or not lines[1]:
        return 0
    counts = ({line.count(separator) for line in lines[:2]} for separator in (b",", b";", b"\t"))
    return max((count.pop() + 1 for count in counts if len(count) == 1), default=0)
