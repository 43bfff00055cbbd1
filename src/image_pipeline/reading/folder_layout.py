"""What the folders of a data set mean: which ones are classes, and which are splits.

Expected is a folder for each class, with `train/` and `test/` above them where there is such a
split. Names of other words (`seg_train`, `training_set`, `eval`) and a split inside each class's
folder are read as well, and folders that wrap all others are passed over. Folders inside a class's
folder belong to the class. What can be read in two ways is refused.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from image_pipeline.common.errors import DataError, one_line

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", "unlabelled"
EVAL = "eval"  # the test split, or validation where there is another test split
SPLITS = {
    TRAIN: ("train", "training", "trainval"),
    VALIDATION: ("val", "valid", "validation", "dev"),
    TEST: ("test", "testing", "holdout", "heldout"),
    EVAL: ("eval", "evaluation"),
    UNLABELLED: ("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled"),
}
NEUTRAL = frozenset(
    {"data", "dataset", "dir", "folder", "image", "images", "img", "imgs", "set", "split"}
)
SPLIT_OF = {
    word + more: split
    for split, words in SPLITS.items()
    for word in words
    for more in ("", *NEUTRAL)  # `testset` beside `test_set`
}
# Words of folders that divide a class by view, time or person, and so are no classes themselves.
PARTS = frozenset(
    {"back", "bottom", "cam", "camera", "front", "left", "rear", "right", "side", "top", "view"}
    | {"batch", "day", "part", "patient", "person", "session", "subject", "user", "writer"}
)
NO_CLASS_NAMES = frozenset({"images", "imgs"})  # beside masks or labels
MIN_OVERLAP = 0.75  # of the folders in two classes' folders, as a mean share of all their names
MAX_DEPTH = 32  # of folders that are told apart: a bound on what a hostile archive costs
MAX_NAMED = 4  # folders that an error names
EXPECTED = (
    "expected are folders like cat/ and dog/, or train/cat/, train/dog/, test/cat/, test/dog/"
)

Folder = tuple[str, ...]  # names, from the top


@dataclass(frozen=True)
class Layout:
    """What the folders mean.

    Attributes:
        class_names: sorted.
        meanings: each folder's label, -1 if it belongs to no class, and whether it is in the test
            split.
        has_test: whether there is a test split.
        unlabelled: names of split folders that have images, but no class folders.
    """

    class_names: tuple[str, ...]
    meanings: dict[str, tuple[int, bool]]
    has_test: bool
    unlabelled: tuple[str, ...]


@dataclass(frozen=True)
class _ClassFolder:
    """The class, the split, and the split's name in the source."""

    name: str
    split: str = TRAIN
    split_folder: str = ""


class _Tree:
    """The folders inside each folder, and where the images are."""

    def __init__(self, folders: Mapping[str, bool]) -> None:
        self.inner: defaultdict[Folder, set[str]] = defaultdict(set)
        self.with_images: set[Folder] = set()  # directly
        self.above_images: set[Folder] = set()  # directly, or deeper
        for name, has_images in folders.items():
            folder = _split_path(name)
            for depth, part in enumerate(folder):
                self.inner[folder[:depth]].add(part)
            if has_images:
                self.with_images.add(folder)
                self.above_images.update(folder[:depth] for depth in range(len(folder) + 1))

    def unwrap(self, folder: Folder) -> Folder:
        """Go down while there is one folder alone, and others in it."""
        while len(self.inner[folder]) == 1:
            inner = (*folder, *self.inner[folder])
            if not self.inner[inner]:
                break
            folder = inner
        return folder


def read_layout(folders: Mapping[str, bool], source: str) -> Layout:
    """Find classes and splits.

    Args:
        folders: each folder that holds files, or nothing, and whether an image lies directly in it.
        source: where they came from, for error messages.

    Raises:
        DataError: the folders are not laid out as expected.
    """
    tree = _Tree(folders)
    root = tree.unwrap(())
    tops = sorted(tree.inner[root])
    unlabelled: list[str] = []
    try:
        if splits := _read_splits(tops, alone=True):
            classes, unlabelled = _find_classes_below(tree, root, splits)
        elif any(_read_splits(tree.inner[tree.unwrap((*root, top))]) for top in tops):
            classes = _find_splits_in_classes(tree, root, tops)
        else:
            classes = {(*root, top): _ClassFolder(top) for top in tops}
        _check_splits(classes.values())
        class_names = tuple(sorted({found.name for found in classes.values()}))
        _check_classes(class_names, classes, tree)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None

    def meaning(name: str) -> tuple[int, bool]:
        folder = _split_path(name)
        for depth in range(1, len(folder) + 1):
            if found := classes.get(folder[:depth]):
                return label_of[found.name], found.split == TEST
        return -1, False

    label_of = {name: label for label, name in enumerate(class_names)}
    return Layout(
        class_names,
        {name: meaning(name) for name in folders},
        any(found.split == TEST for found in classes.values()),
        tuple(unlabelled),
    )


def _split_path(name: str) -> Folder:
    return tuple(name.split("/")[:MAX_DEPTH]) if name else ()


def _words(name: str) -> list[str]:
    """Return the words of a name, which end at all but letters, and before a capital letter."""
    return re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())


def _read_name(name: str) -> tuple[str, frozenset[str], tuple[str, ...]] | None:
    """Return the split that words in a folder's name stand for, these words, and the others."""
    words = _words(name)
    split_words = frozenset(word for word in words if word in SPLIT_OF)
    splits = {SPLIT_OF[word] for word in split_words}
    if splits == {TRAIN, VALIDATION}:
        splits = {TRAIN}
    if len(splits) != 1:
        return None
    rest = tuple(word for word in words if word not in split_words and word not in NEUTRAL)
    return splits.pop(), split_words, rest


def _read_splits(names: Collection[str], alone: bool = False) -> dict[str, str]:
    """Return the split that each name stands for, or nothing where they are not splits.

    Classes may be called `test_tube` and `toy_train`. Names are splits if two of them differ only
    in their word for the split (`seg_train`, `seg_test`); or if all of them have such a word, for
    more than one split or one of them without other words (`test`). With `alone`, one name without
    other words is enough.
    """
    found = {name: read for name in names if (read := _read_name(name))}
    words_of = defaultdict(set)
    for _, words, rest in found.values():
        words_of[rest].add(words)
    splits = {name: split for name, (split, _, _) in found.items()}
    if not (
        any(len(words) > 1 for words in words_of.values())
        or (len(found) == len(names) and len(set(splits.values())) > 1)
        or (() in words_of and (alone or len(found) == len(names)))
    ):
        return {}
    evaluation = VALIDATION if TEST in splits.values() else TEST
    return {name: evaluation if split == EVAL else split for name, split in splits.items()}


def _find_classes_below(
    tree: _Tree, root: Folder, splits: dict[str, str]
) -> tuple[dict[Folder, _ClassFolder], list[str]]:
    """Return the class folders in the folders of splits, and the splits' names that have none."""
    first = min(splits, key=lambda top: (splits[top] not in (TRAIN, VALIDATION), top))
    if not {TRAIN, VALIDATION} & set(splits.values()):
        raise DataError(
            f"there is {_quote(first)}, but no train/; put the folders of the classes into train/; "
            f"or remove {_quote(first)} (`predict` can score it); or rename it if it is a class"
        )
    for top in sorted(tree.inner[root]):
        if top not in splits and (*root, top) in tree.above_images:
            raise DataError(
                f"the folder {_quote(top)} is beside {_quote(first)}, and only train/, test/ and "
                f"validation/ may be: move or remove it; or rename {_quote(first)} if it is a class"
            )
    bases = {top: tree.unwrap((*root, top)) for top in splits}
    unlabelled, classes = [], {}
    for top, base in bases.items():
        names = tree.inner[base]
        others = {name for other in splits if other != top for name in tree.inner[bases[other]]}
        # A folder alone that is no class elsewhere wraps the images: seg_pred/seg_pred/1.jpg.
        if splits[top] == UNLABELLED or not names or (len(names) == 1 and not names <= others):
            if (*root, top) in tree.above_images:
                unlabelled.append(top)
            elif splits[top] != UNLABELLED:
                raise DataError(f"the folder {_quote(top)} has no images; add some, or remove it")
            continue
        for name in names:
            classes[*base, name] = _ClassFolder(name, splits[top], top)
    if not {TRAIN, VALIDATION} & {found.split for found in classes.values()}:
        raise DataError(f"no class folders are in {_quote(*sorted(unlabelled))}; {EXPECTED}")
    return classes, unlabelled


def _find_splits_in_classes(
    tree: _Tree, root: Folder, tops: Iterable[str]
) -> dict[Folder, _ClassFolder]:
    classes = {}
    advice = f"though classes have train/ and test/ folders in them; move or remove it; {EXPECTED}"
    for top in tops:
        base = tree.unwrap((*root, top))
        splits = _read_splits(tree.inner[base], alone=True)
        for name in sorted(tree.inner[base]):
            if splits.get(name) in (TRAIN, VALIDATION, TEST):
                classes[*base, name] = _ClassFolder(top, splits[name], name)
            elif (*base, name) in tree.above_images:
                raise DataError(f"the folder {_quote(f'{top}/{name}')} is in no split, {advice}")
        if base in tree.with_images or not splits:
            raise DataError(f"what is in the folder {_quote(top)} is in no split, {advice}")
    return classes


def _check_splits(classes: Iterable[_ClassFolder]) -> None:
    """Refuse a class that is in the training or in the test split alone, or only in validation."""
    splits: defaultdict[str, dict[str, str]] = defaultdict(dict)  # their classes' split folders
    for found in classes:
        splits[found.split].setdefault(found.name, found.split_folder)
    train = splits[TRAIN] or splits[VALIDATION]
    for split in (VALIDATION, TEST):
        other = splits[split]
        differing = other.keys() - train.keys()
        if split == TEST and other:
            differing |= train.keys() - other.keys()
        for name in sorted(differing):
            there, missing = (train, other) if name in train else (other, train)
            has, lacks = _quote(there[name]), _quote(next(iter(missing.values()), TRAIN))
            raise DataError(
                f"the class '{one_line(name, 100)}' is in {has} but not in {lacks}; add images of "
                f"it to {lacks}, or remove it from {has}"
            )


def _check_classes(
    class_names: tuple[str, ...], classes: Mapping[Folder, _ClassFolder], tree: _Tree
) -> None:
    """Refuse what cannot be classes, or can be read in two ways."""
    for name in class_names:
        if not name.isprintable():
            raise DataError(f"the class name {name!a} is not printable; rename it")
        if name.lower() in NO_CLASS_NAMES:
            raise DataError(f"the folder {_quote(name)} names no class; {EXPECTED}")
    if len(class_names) < 2:
        found = f"only '{one_line(class_names[0], 100)}'" if class_names else "none"
        raise DataError(
            f"expected at least two folders, one per class, such as cat/ and dog/; found: {found}"
        )
    inner: dict[str, set[str]] = {name: set() for name in class_names}  # folders in their folders
    for folder, entry in classes.items():
        inner[entry.name] |= tree.inner[tree.unwrap(folder)]
    for name in class_names:
        copied = sorted(other for other in inner[name] & inner.keys() if not other.isdigit())
        if len(copied) > 1:
            raise DataError(
                f"the folder {_quote(name)} has folders in it that are named like those beside it, "
                f"{_quote(*copied)}, so it is no class; move or remove it"
            )
    # Versions of the same images (color/, grayscale/), or parts of them (patient1/, patient2/)?
    union = set().union(*inner.values())
    direct = {entry.name for folder, entry in classes.items() if folder in tree.with_images}
    if (
        len(union) > 1
        and sum(map(len, inner.values())) > MIN_OVERLAP * len(union) * len(class_names)
        and 2 * len(direct) <= len(class_names)
        and any(PARTS.isdisjoint(_words(name)) for name in union)
    ):
        first = "/".join(min(classes))
        raise DataError(
            f"the folders {_quote(*class_names)} have the same folders in them, "
            f"{_quote(*sorted(union))}; which are the classes? If the inner ones, put all images "
            f"of each into one folder, or use one of the outer folders alone ({_quote(first)}); if "
            "the outer ones, move the images up into them"
        )


def _quote(*names: str) -> str:
    """Name folders for a message: the first ones, with a slash."""
    shown = ", ".join(f"{one_line(name, 100)}/" for name in names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
