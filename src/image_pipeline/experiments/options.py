"""Command-line options that several commands share."""

import argparse
from functools import partial
from pathlib import Path

from image_pipeline.experiments.revisions import RevisionError


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add the options that set `format`: "text", "markdown" or "json"."""
    group = parser.add_mutually_exclusive_group()
    add = partial(group.add_argument, action="store_const", dest="format", default="text")
    add("--markdown", const="markdown", help="for a pull request")
    add("--json", const="json", help="for a program")


def check_picture(path: Path | None) -> None:
    """Check that a picture can be written, before anything is read or run for it.

    Raises:
        RevisionError: the name does not end in .png, or its folder does not exist.
    """
    if path and (path.suffix.lower() != ".png" or not path.parent.is_dir()):
        raise RevisionError(f"{path}: not a .png file in an existing folder; choose another path")
