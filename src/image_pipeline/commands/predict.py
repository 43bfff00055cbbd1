"""Predict images: the class of each, its probability, the runner-up, and whether to doubt it.

IMAGE is a file; a folder, of which all images are taken, those of its folders, too; a pattern such
as 'scans/*.png' (`**` for folders in folders); or - for one image on standard input. PNG, JPEG,
BMP, GIF, TIFF and WebP, of any size and colour; of several frames the first; turned as EXIF says.

The model file says how images are prepared. A model of MNIST's digits takes photographs and scans
of digits, too. An image unlike all that the model was trained on is called doubtful.

Exit status: 0, or 1 where an image could not be read; a line on standard error says why.
"""

import argparse
import gc
import os
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, ParamsError, one_line
from image_pipeline.experiments.revisions import check_picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from image_pipeline.prediction.predictor import Predictor
    from image_pipeline.prediction.preparation import Preparation
    from image_pipeline.prediction.sources import Source
    from image_pipeline.prediction.streaming import Image, Prediction

MAX_SHOWN = 24
MAX_NAME_LENGTH = 1 << 12
NO_IMAGE = "no image of these formats"
SHOWN_PIXELS = 300  # of the longer side of an image in the picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="see above")
    parser.add_argument(
        "--files-from",
        metavar="FILE",
        help="take the names in a file, one a line, besides; - is standard input",
    )
    parser.add_argument(
        "--model",
        metavar="FILE",
        type=Path,
        default=paths.MODEL,
        help=f"another model than {paths.MODEL}",
    )
    parser.add_argument(
        "--prepare",
        choices=("auto", "mnist", "as-trained"),
        default="auto",
        help="as-trained: as `tensorize` prepared the training images. mnist: find the digit, dark "
        "or light, and bring it to MNIST's form; only for models of such digits. auto (default): "
        "mnist where the model allows it and the image is not in that form already",
    )
    parser.add_argument(
        "--deskew", action="store_true", help="on the way to MNIST's form, set the digit upright"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a line of JSON for each image")
    form.add_argument("--csv", action="store_true", help="a table for programs")
    parser.add_argument(
        "--show",
        metavar="FILE.png",
        type=Path,
        help=f"draw the first {MAX_SHOWN} images beside what the network saw of them",
    )


def run(arguments: argparse.Namespace) -> int:
    """Predict, and print each image's line as it comes; return the exit status.

    Raises:
        DataError: the model file is missing, or is not what it should be.
        ParamsError: no image is named, or the picture cannot be written there.
        PreparationError: the model's images do not allow the preparation.
    """
    if not arguments.images and arguments.files_from is None:
        raise ParamsError("no IMAGE; name files, folders or patterns, or - for standard input")
    check_picture(arguments.show)
    _check_model(arguments.model)
    # After the arguments are known to be good: this imports torch.
    from image_pipeline import numerics

    numerics.pin("portable")
    try:
        return _predict(arguments)
    except BrokenPipeError:  # as `head` leaves it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _check_model(path: Path) -> None:
    if path.exists():
        return
    remedy = "name a model file that `train` wrote"
    if path == paths.MODEL:
        remedy = "run `dvc pull` or `dvc repro` in the project's root"
    raise DataError(f"{path}: not found; {remedy}")


def _predict(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from image_pipeline.common.cores import available_cores
    from image_pipeline.prediction.forms import Form, writer_of
    from image_pipeline.prediction.predictor import open_predictor
    from image_pipeline.prediction.streaming import Prediction, predict_files

    predictor = open_predictor(arguments.model)
    preparation = predictor.preparation(arguments.prepare, deskew=arguments.deskew)
    sources, count = _sources(arguments)
    form: Form = "json" if arguments.json else "csv" if arguments.csv else "table"
    header, line_of = writer_of(form, predictor.class_names)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if header:
        print(header)
    predicted = doubtful = failed = 0
    shown: list[Prediction] = []
    cores = min(available_cores(), count or available_cores())
    gc.freeze()  # else a collection makes copies of pages that processes share
    results = predict_files(sources, arguments.model, preparation, cores)
    hidden = sys.stdout.isatty() or None  # lines that come by say the same
    with tqdm(
        total=count, desc="predict", unit="image", unit_scale=True, delay=1, disable=hidden
    ) as bar:
        for result in results:
            bar.update()
            if not isinstance(result, Prediction):
                failed += 1
                tqdm.write(_failure(result), file=sys.stderr)
                continue
            predicted += 1
            doubtful += result.doubtful
            print(line_of(result))
            if result.image.more_frames:
                tqdm.write(_note(result.image), file=sys.stderr)
            if arguments.show and len(shown) < MAX_SHOWN:
                shown.append(result)
    sys.stdout.flush()
    card = predictor.card
    said = f"{predicted} images by {arguments.model} ({card.network}, of {card.data.dataset})"
    if doubtful:
        said += f", {doubtful} doubtful"
    if failed:
        said += f"; {failed} could not be predicted"
    if shown:
        _draw(arguments.show, shown, predictor, preparation)
        which = "them" if predicted == len(shown) else f"the first {len(shown)}"
        said += f"; {arguments.show} shows {which}"
    print(f"predict: {said}", file=sys.stderr)
    return 1 if failed else 0


def _sources(arguments: argparse.Namespace) -> "tuple[Iterator[Source], int | None]":
    """Return what is asked about, and how many that are, where it can be known beforehand."""
    from image_pipeline.prediction.sources import STANDARD_INPUT, find_sources, read_list

    names = arguments.images
    if arguments.files_from is not None:
        return find_sources(chain(names, read_list(arguments.files_from))), None
    if STANDARD_INPUT in names:
        return find_sources(names), None
    return find_sources(names), sum(1 for _ in find_sources(names))


def _failure(image: "Image") -> str:
    name, hint = _name(image), ""
    if image.source.content and image.error.startswith(NO_IMAGE):
        hint = "; names of files go to --files-from -"
    return f"predict: error: {name}: {one_line(image.error)}{hint}"


def _note(image: "Image") -> str:
    return f"predict: note: {_name(image)}: has several frames; this is its first"


def _name(image: "Image") -> str:
    return one_line(image.source.name, MAX_NAME_LENGTH)


def _draw(
    path: Path, shown: "list[Prediction]", predictor: "Predictor", prepare: "Preparation"
) -> None:
    """Draw images beside what the network saw of them."""
    import numpy as np

    from image_pipeline.datasets.image_files.pixels import decode_whole, quiet_but_wary
    from image_pipeline.prediction.picture import Seen, draw_seen

    seen = []
    with quiet_but_wary():
        for prediction in shown:
            content = prediction.image.source.read()
            pixels = np.frombuffer(prepare(content)[0], np.uint8)
            given = decode_whole(content, SHOWN_PIXELS)
            seen.append(Seen(prediction, given, pixels.reshape(predictor.card.input_shape)))
    try:
        draw_seen(path, seen, predictor.class_names)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
