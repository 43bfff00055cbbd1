"""Predict images: the class of each, its probability, the runner-up, and whether it is doubtful.

IMAGE is a file; a folder, for all images in it and its subfolders; a pattern such as 'scans/*.png'
(`**` matches nested folders); or - for one image on standard input. Formats: PNG, JPEG, BMP, GIF,
TIFF, WebP, PPM, JPEG 2000 and AVIF, of any size and colour, and HEIC with the package pillow-heif.
The EXIF orientation is applied; of several frames the first is used.

Images are preprocessed as the model file says. Models of MNIST-like digits also accept photographs
and scans of digits. An image is called doubtful if it is out-of-distribution, that is, unlike the
training images; and a photograph of a digit also if it is not plain which of its marks are the
digit, or if no class has a probability of 90%. The line says why.

Exit status: 0; or 1 if an image could not be read, with a line on standard error that says why.
"""

import argparse
import gc
import os
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, ParamsError, one_line
from image_pipeline.experiments.options import check_picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from image_pipeline.prediction.inputs import ImageInput
    from image_pipeline.prediction.predictor import Predictor
    from image_pipeline.prediction.preprocessing import Preprocessor
    from image_pipeline.prediction.streaming import Prediction, ProcessedImage

MAX_EXAMPLES = 24
MAX_EXAMPLE_SIDE = 300  # pixels of the longer side of an image in the figure
NOT_AN_IMAGE = "not an image in one of the formats"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="see above")
    parser.add_argument(
        "--files-from",
        metavar="FILE",
        help="also predict the files listed in FILE, one per line; - is standard input",
    )
    parser.add_argument(
        "--model",
        metavar="FILE",
        type=Path,
        default=paths.MODEL,
        help=f"model file (default: {paths.MODEL})",
    )
    parser.add_argument(
        "--prepare",
        choices=("auto", "mnist", "as-trained"),
        default="auto",
        help="as-trained: as `tensorize` prepared the training images. mnist: find the digit, dark "
        "or light, and convert it to MNIST's format; only for models of such digits. auto "
        "(default): mnist if the model allows it and the image is not in that format already",
    )
    parser.add_argument(
        "--deskew", action="store_true", help="with mnist, also shear a slanted digit upright"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print a JSON object per image")
    output.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument(
        "--show",
        metavar="FILE.png",
        type=Path,
        help=f"draw the first {MAX_EXAMPLES} images beside the network's inputs",
    )


def run(arguments: argparse.Namespace) -> int:
    """Predict, and print each image's line as soon as it is known; return the exit status.

    Raises:
        DataError: the model file is missing or invalid.
        ParamsError: no image is named, or the mode does not suit the model.
        RevisionError: the figure cannot be written there.
    """
    if not arguments.images and arguments.files_from is None:
        raise ParamsError("no IMAGE; name files, folders or patterns, or - for standard input")
    check_picture(arguments.show)
    _check_model_exists(arguments.model)
    # After the arguments are checked: this imports torch.
    from image_pipeline import numerics

    numerics.pin("portable")
    try:
        return _predict(arguments)
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _check_model_exists(path: Path) -> None:
    if path.exists():
        return
    remedy = "name a model file that `train` wrote"
    if path == paths.MODEL:
        remedy = "run `dvc pull` or `dvc repro` in the project's root"
    raise DataError(f"{path}: not found; {remedy}")


def _predict(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from image_pipeline.common.cores import available_cores
    from image_pipeline.prediction.formatters import OutputFormat, make_formatter
    from image_pipeline.prediction.inputs import describe_skipped
    from image_pipeline.prediction.predictor import load_predictor
    from image_pipeline.prediction.preprocessing import Preprocessor
    from image_pipeline.prediction.streaming import Prediction, predict_files

    predictor = load_predictor(arguments.model)
    card = predictor.card
    preprocessor = Preprocessor.for_model(card, arguments.prepare, deskew=arguments.deskew)
    skipped: Counter[str] = Counter()
    inputs, count = _find_inputs(arguments, skipped)
    form: OutputFormat = "json" if arguments.json else "csv" if arguments.csv else "table"
    header, format_line = make_formatter(form, card.data.class_names)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if header:
        print(header)
    predicted = doubtful = failed = 0
    examples: list[Prediction] = []
    cores = min(available_cores(), count or available_cores())
    gc.freeze()  # else a collection copies pages that processes share
    results = predict_files(inputs, arguments.model, preprocessor, cores)
    disable = sys.stdout.isatty() or None  # the printed lines show the progress already
    with tqdm(
        total=count, desc="predict", unit="image", unit_scale=True, delay=1, disable=disable
    ) as bar:
        for result in results:
            bar.update()
            if not isinstance(result, Prediction):
                failed += 1
                tqdm.write(_error_line(result), file=sys.stderr)
                continue
            predicted += 1
            doubtful += result.doubtful
            print(format_line(result))
            if result.image.more_frames:
                name = result.image.input.display_name
                note = f"predict: note: {name}: has several frames; the first one is used"
                tqdm.write(note, file=sys.stderr)
            if arguments.show and len(examples) < MAX_EXAMPLES:
                examples.append(result)
    sys.stdout.flush()
    if skipped:
        print(f"predict: note: {describe_skipped(skipped)}", file=sys.stderr)
    summary = f"{predicted} images by {arguments.model} ({card.network}, {card.data.dataset})"
    if doubtful:
        summary += f", {doubtful} doubtful"
    if failed:
        summary += f"; {failed} could not be predicted"
    if examples:
        _draw(arguments.show, examples, predictor, preprocessor)
        which = "them" if predicted == len(examples) else f"the first {len(examples)}"
        summary += f"; {arguments.show} shows {which}"
    print(f"predict: {summary}", file=sys.stderr)
    return 1 if failed else 0


def _find_inputs(
    arguments: argparse.Namespace, skipped: Counter[str]
) -> "tuple[Iterator[ImageInput], int | None]":
    """Return the inputs, and their number if it can be known in advance; count other files."""
    from image_pipeline.prediction.inputs import STANDARD_INPUT, find_inputs, read_file_list

    names = arguments.images
    if arguments.files_from is not None:
        return find_inputs(chain(names, read_file_list(arguments.files_from)), skipped), None
    if STANDARD_INPUT in names:
        return find_inputs(names, skipped), None
    return find_inputs(names, skipped), sum(1 for _ in find_inputs(names))


def _error_line(image: "ProcessedImage") -> str:
    hint = ""
    if image.input.content and image.error.startswith(NOT_AN_IMAGE):
        hint = "; to give a list of file names, use --files-from -"
    return f"predict: error: {image.input.display_name}: {one_line(image.error)}{hint}"


def _draw(
    path: Path, predictions: "list[Prediction]", predictor: "Predictor", prepare: "Preprocessor"
) -> None:
    import numpy as np

    from image_pipeline.prediction.figure import draw_examples
    from image_pipeline.reading.pixels import decode_whole, strict_warnings

    examples = []
    with strict_warnings():
        for prediction in predictions:
            content = prediction.image.input.read()
            pixels = np.frombuffer(prepare(content).pixels, np.uint8)
            original = decode_whole(content, MAX_EXAMPLE_SIDE)
            network_input = pixels.reshape(predictor.card.input_shape)
            examples.append((prediction, original, network_input))
    try:
        draw_examples(path, examples, predictor.card.data.class_names)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
