"""What an audit found: its tables, its pictures, and the test accuracy without it."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from image_pipeline.auditing.confident_learning import LabelIssues
from image_pipeline.auditing.descriptors import Descriptors, describe
from image_pipeline.auditing.files import file_sizes, image_files
from image_pipeline.auditing.image_issues import ImageStatistics, odd_files
from image_pipeline.auditing.near_duplicates import Pairs, find_near_duplicates
from image_pipeline.common import paths
from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import DataError
from image_pipeline.common.files import atomic_group
from image_pipeline.common.params import Params
from image_pipeline.common.processes import Processes
from image_pipeline.plotting.images import draw_images
from image_pipeline.plotting.labels import short_names
from image_pipeline.serialization import write_csv_rows
from image_pipeline.tensors.tensor_files import Split, read_split

FEW_IMAGES = 10  # as in the data report
CHUNK_PIXELS = 1 << 22
SHOWN = 48  # pairs or images in a picture
LISTED = 100  # labels of each split that are listed at least
DPI = 80


@dataclass
class Audit:
    """What was found. Images are numbered through the training, validation and test split.

    Attributes:
        splits: train, validation and test, in this order.
        files: the names of the images' files, by split; empty if there are none.
        pairs: near-duplicates.
        image_issues: number of the image, kind of issue, what was measured.
        label_issues: of all images, if the labels were judged.
    """

    splits: dict[str, Split]
    files: dict[str, list[str]]
    pairs: Pairs
    image_issues: list[tuple[int, str, float]]
    label_issues: LabelIssues | None = None
    starts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        sizes = [len(split.labels) for split in self.splits.values()]
        self.starts = np.cumsum([0, *sizes])
        self.names = list(self.splits)
        self.classes = self.splits["train"].info.class_names

    def place(self, number: int) -> tuple[str, int]:
        """Return an image's split and its number there."""
        split = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.names[split], number - int(self.starts[split])

    def identify(self, number: int) -> list[str | int]:
        """Return an image's split, index in it, class and file (may be empty)."""
        split, index = self.place(number)
        files = self.files[split]
        label = int(self.splits[split].labels[index])
        return [split, index, self.classes[label], files[index] if files else ""]

    def image(self, number: int) -> np.ndarray:
        """Return the pixels of an image, uint8 `[C, H, W]`."""
        split, index = self.place(number)
        pixels: np.ndarray = self.splits[split].images[index].numpy()
        return pixels

    def leaked(self) -> np.ndarray:
        """Return the test images that have a near-duplicate in another split, ascending."""
        first, second = self.pairs.first, self.pairs.second
        border = self.starts[2]
        leaked: np.ndarray = np.unique(second[(first < border) & (second >= border)]) - border
        return leaked

    def found_in_test(self) -> np.ndarray:
        """Return the test images of which anything was found, ascending."""
        found = {number for number, _, _ in self.image_issues}
        if self.label_issues:
            found |= set(np.flatnonzero(self.label_issues.likely_error).tolist())
        border = int(self.starts[2])
        others = [number - border for number in found if number >= border]
        return np.union1d(self.leaked(), np.array(others, np.int64))

    def write(self, folder: Path) -> None:
        """Write all tables and pictures."""
        with atomic_group():
            identity = ["split", "index", "class", "file"]
            other = [f"other_{name}" for name in identity]
            write_csv_rows(
                folder / "near_duplicates.csv",
                [*identity, *other, "distance", "mirrored"],
                self._pair_rows(),
            )
            write_csv_rows(
                folder / "image_issues.csv",
                [*identity, "issue", "measured"],
                (
                    [*self.identify(number), issue, f"{value:g}"]
                    for number, issue, value in self.image_issues
                ),
            )
            self._draw_pairs(folder / "near_duplicates.png")
            shown = self.image_issues[:SHOWN]
            self._draw(
                folder / "image_issues.png",
                [number for number, _, _ in shown],
                [issue for _, issue, _ in shown],
                f"{len(shown)} of {len(self.image_issues)} findings in single images",
            )
            if self.label_issues:
                self._write_labels(folder, self.label_issues)

    def _pair_rows(self) -> Iterator[list[str | int]]:
        for first, second, distance, mirrored in self._pairs():
            yield [
                *self.identify(first),
                *self.identify(second),
                f"{distance:.4f}",
                "yes" if mirrored else "no",
            ]

    def _pairs(self) -> Iterator[tuple[int, int, float, bool]]:
        pairs = self.pairs
        columns = (pairs.first, pairs.second, pairs.distance, pairs.mirrored)
        yield from zip(*(column.tolist() for column in columns), strict=True)

    def _draw_pairs(self, path: Path) -> None:
        pairs = list(self._pairs())
        # Spread over all distances: the nearest alone would say nothing of the farthest.
        chosen = [pairs[n * len(pairs) // SHOWN] for n in range(SHOWN)] if pairs else []
        chosen = list(dict.fromkeys(chosen))
        images = [np.concatenate([self.image(a), self.image(b)], axis=2) for a, b, _, _ in chosen]
        captions = [
            f"{self.place(a)[0]}, {self.place(b)[0]}\n{distance:.3f}"
            for a, b, distance, _ in chosen
        ]
        title = f"{len(chosen)} of {len(pairs)} near-duplicates, at all distances"
        self._draw_images(path, images, captions, title)

    def _draw(
        self, path: Path, numbers: Sequence[int], captions: Sequence[str], title: str
    ) -> None:
        captions = [
            f"{self.place(number)[0]} {self.place(number)[1]}\n{caption}"
            for number, caption in zip(numbers, captions, strict=True)
        ]
        self._draw_images(path, [self.image(number) for number in numbers], captions, title)

    def _draw_images(
        self, path: Path, images: list[np.ndarray], captions: Sequence[str], title: str
    ) -> None:
        channels, height, width = self.splits["train"].shape
        array = np.stack(images) if images else np.zeros((0, channels, height, width), np.uint8)
        draw_images(path, array, captions, title, DPI)

    def _write_labels(self, folder: Path, issues: LabelIssues) -> None:
        ranked = issues.ranked()
        rows, listed = [], dict.fromkeys(self.names, 0)
        for number in ranked.tolist():
            split, likely = self.place(number)[0], bool(issues.likely_error[number])
            listed[split] += 1
            if likely or listed[split] <= LISTED:
                rows.append(
                    [
                        *self.identify(number),
                        self.classes[int(issues.suggested[number])],
                        f"{issues.score[number]:.6f}",
                        "yes" if likely else "no",
                    ]
                )
        header = ["split", "index", "class", "file", "suggested", "score", "likely_error"]
        write_csv_rows(folder / "label_issues.csv", header, rows)
        names = short_names(self.classes)
        shown = ranked[:SHOWN].tolist()
        captions = []
        for number in shown:
            split, index = self.place(number)
            label = int(self.splits[split].labels[index])
            captions.append(f"{names[label]}, or {names[int(issues.suggested[number])]}?")
        title = f"The {len(shown)} most doubtful labels of {len(issues.score)}"
        self._draw(folder / "label_issues.png", shown, captions, title)

    def describe(self, folder: Path) -> str:
        """Return what was found, in a few lines."""
        lines = []
        kinds: dict[str, int] = {}
        for _, issue, _ in self.image_issues:
            kinds[issue] = kinds.get(issue, 0) + 1
        leaked, test = len(self.leaked()), len(self.splits["test"].labels)
        lines.append(
            f"{len(self.pairs.first)} pairs of near-duplicates; {leaked} of {test} test images "
            "have one in train or validation"
        )
        lines.append(
            "single images: "
            + (", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing found")
        )
        few = sorted(
            {
                self.classes[label]
                for split in self.splits.values()
                for label, count in enumerate(
                    np.bincount(split.labels.numpy(), minlength=len(self.classes)).tolist()
                )
                if count < FEW_IMAGES
            }
        )
        if few:
            lines.append(
                f"classes with fewer than {FEW_IMAGES} images in a split: {', '.join(few)}"
            )
        if self.label_issues:
            bounds = zip(self.names, self.starts, self.starts[1:], strict=False)
            counts = ", ".join(
                f"{int(self.label_issues.likely_error[start:end].sum())} in {name}"
                for name, start, end in bounds
            )
            lines.append(f"labels that are likely errors: {counts}")
        lines.append(self._accuracy())
        lines.append(f"tables and pictures are in {folder}/")
        return "\n".join(f"audit: {line}" for line in lines)

    def _accuracy(self) -> str:
        """Return the model's test accuracy, on all test images and without those found."""
        count = len(self.splits["test"].labels)
        try:
            with paths.PREDICTIONS.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            correct = np.array([row["actual"] == row["predicted"] for row in rows], bool)
        except (FileNotFoundError, KeyError):
            correct = np.zeros(0, bool)
        if len(correct) != count:
            return f"no {paths.PREDICTIONS} of these test images; `dvc repro evaluate` writes it"
        found = self.found_in_test()
        kept = np.delete(correct, found)
        shown = f"test accuracy {int(correct.sum()) / count:.2%}"
        if not len(kept):
            return shown
        return (
            f"{shown} on all {count} images, {int(kept.sum()) / len(kept):.2%} without the "
            f"{len(found)} of which something was found"
        )


def audit_images(params: Params) -> Audit:
    """Look for near-duplicates and for issues of single images, in all three splits.

    Memory holds 1.3 kB an image, beside a few hundred MB.

    Raises:
        DataError: the tensors are missing or damaged, or are not those of the files in data/raw/.
        PipelineError: a process died.
    """
    places = (paths.TRAIN_TENSORS, paths.VALIDATION_TENSORS, paths.TEST_TENSORS)
    splits = dict(zip(("train", "validation", "test"), map(read_split, places), strict=True))
    files = image_files(params)
    statistics, parts = ImageStatistics(), []
    channels, height, width = splits["train"].shape
    step = max(1, CHUNK_PIXELS // (channels * height * width))
    total = sum(len(split.labels) for split in splits.values())
    with tqdm(total=total, desc="audit", unit="image", unit_scale=True) as bar:
        for name, split in splits.items():
            if files[name] and len(files[name]) != len(split.labels):
                raise DataError(
                    f"{paths.TENSORS}: not the images of {paths.RAW}; run `dvc repro tensorize`"
                )
            for start in range(0, len(split.labels), step):
                images = split.images[start : start + step].numpy()
                statistics.add(images)
                parts.append(describe(images))
                bar.update(len(images))
    described = Descriptors(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("thumbnails", "even", "odd")
        )
    )
    cores = min(params.machine.cores, available_cores())
    with Processes(cores, "compares images", "run this again") as processes:
        pairs = find_near_duplicates(described, processes)
    listed = [name for names in files.values() for name in names]
    return Audit(splits, files, pairs, [*statistics.issues(), *odd_files(file_sizes(listed))])
