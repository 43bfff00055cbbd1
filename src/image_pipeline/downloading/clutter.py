"""Names of what no user put among the images: file managers, disks and tools did.

`.dvcignore` lists the same names, so that DVC doesn't run `download` again for them.
"""

from collections import Counter
from collections.abc import Iterable

from image_pipeline.common.errors import one_line

NAMES = frozenset(
    name.lower()
    for name in (
        *("__MACOSX", "Icon\r", "Network Trash Folder", "Temporary Items"),  # macOS
        *("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),  # Windows
        *("$RECYCLE.BIN", "RECYCLER", "System Volume Information"),  # Windows' disks
        *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot"),  # network storage
        *("lost+found", "Picasa.ini", "__pycache__"),
    )
)
STREAM = ":zone.identifier"  # ends the name of a file that Windows adds to a downloaded one
MAX_SHOWN = 10  # different names


def is_clutter(name: str) -> bool:
    """Return whether a file or folder of this name is left out; all hidden ones are."""
    lower = name.lower()
    return name.startswith(".") or lower in NAMES or lower.endswith(STREAM)


def count_by_name(paths: Iterable[str]) -> str:
    """Return the names that such paths end in, the most frequent first, with their numbers."""
    counts = Counter(_kind(path.rpartition("/")[2]) for path in paths)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [
        f"{one_line(name.strip(), 60)} ({count})" if count > 1 else one_line(name.strip(), 60)
        for name, count in ranked[:MAX_SHOWN]
    ]
    more = [f"and {len(ranked) - MAX_SHOWN} other names"] if len(ranked) > MAX_SHOWN else []
    return ", ".join(shown + more)


def _kind(name: str) -> str:
    """Return a name, or the pattern of those that differ from file to file."""
    if name.startswith("._"):  # macOS keeps attributes there on a disk that is not its own
        return "._*"
    return "*:Zone.Identifier" if name.lower().endswith(STREAM) else name
