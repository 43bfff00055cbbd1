"""Run a recipe: settings that were worth keeping, the same result whatever ran before.

A recipe, recipes/<name>.yaml, holds the data set and every key that a training run depends on. They
take the place of those in params.yaml, and `dvc exp run` runs them.
"""

import argparse
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.files import write_bytes
from image_pipeline.common.params import AugmentationParams, TrainParams, check_params, read_params

FOLDER = Path("recipes")
BACKUP = Path("params.yaml.bak")
OF_THE_DATA = {"download": {"dataset"}, "tensorize": {"validation_fraction", "seed"}}
CHOICES = ("model", "optimizer")  # of whose blocks a recipe has the chosen one

Settings = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("name", nargs="?", help="of the recipe; without it, all are listed")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        help="more for `dvc exp run`, such as -S train.seed=1 or --name mine",
    )


def run(arguments: argparse.Namespace) -> int:
    """List the recipes, or run one; return the exit status.

    Raises:
        ParamsError: there is no such recipe, or it does not say all that it must.
    """
    if arguments.name is None:
        for name in names():
            print(f"{name:12} {headline(name)}")
        return 0
    recipe = read_recipe(arguments.name)
    before = paths.PARAMS.read_bytes() if read_params() else b""
    after = with_recipe(before.decode(), recipe)
    check_params(YAML(typ="safe").load(after), FOLDER / f"{arguments.name}.yaml")
    if _would_be_lost(before.decode(), recipe):
        write_bytes(BACKUP, before)
        print(f"recipe: your changes of {paths.PARAMS} are kept in {BACKUP}")
    write_bytes(paths.PARAMS, after.encode())
    extra = arguments.arguments[arguments.arguments[:1] == ["--"] :]
    if status := _run_dvc(extra):
        return status
    metrics = json.loads(paths.TEST_METRICS.read_text(encoding="utf-8"))
    print(
        f"recipe: {arguments.name}{''.join(f' {word}' for word in extra)}: final test accuracy "
        f"{metrics['accuracy']:.2%} ({metrics['errors']} errors in {metrics['images']} images); "
        "`dvc exp show` lists it, and `git checkout params.yaml dvc.lock metrics plots && dvc "
        "checkout` brings the committed run back"
    )
    return 0


def names() -> list[str]:
    """Return the recipes there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def headline(name: str) -> str:
    """Return what a recipe says of itself in its first line."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return lines[0].removeprefix("# ") if lines else ""


def read_recipe(name: str) -> Settings:
    """Read a recipe.

    Raises:
        ParamsError: there is none of this name, or it is no YAML, or a key is missing or too many.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in names():
        raise ParamsError(
            f"there is no recipe `{one_line(name, 60)}` in {FOLDER.resolve()}; there are "
            f"{', '.join(names()) or 'none: run from the root of the project'}"
        )
    try:
        recipe = YAML(typ="safe").load(path)
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {one_line(error)}") from None
    found, expected = _keys(recipe), _expected_keys(recipe)
    for wrong, said in (
        (expected - found, "missing; a recipe names every key that a training run depends on"),
        (found - expected, "not a key that a recipe may set"),
    ):
        if wrong:
            raise ParamsError(f"{path}: {sorted(wrong)[0]}: {said}")
    return dict(recipe)


def _keys(values: object, before: tuple[str, ...] = ()) -> set[str]:
    """Return the dotted keys of nested blocks, the options of what is chosen left out."""
    if not isinstance(values, Mapping) or (len(before) == 3 and before[1] in CHOICES):
        return {".".join(before)}
    return set().union(*(_keys(value, (*before, str(key))) for key, value in values.items()))


def _expected_keys(recipe: object) -> set[str]:
    keys = {f"{block}.{key}" for block, keys in OF_THE_DATA.items() for key in keys}
    keys |= {f"train.augmentation.{key}" for key in AugmentationParams.model_fields}
    apart = {"augmentation", *CHOICES}
    keys |= {f"train.{key}" for key in TrainParams.model_fields.keys() - apart}
    for choice in CHOICES:
        keys.add(f"train.{choice}.name")
        block = _at(recipe, f"train.{choice}")
        if isinstance(block, Mapping) and block.get("name") in block:
            keys.add(f"train.{choice}.{block['name']}")  # it may have no options
    return keys


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def with_recipe(params: str, recipe: Settings) -> str:
    """Return the text of params.yaml with a recipe's settings, all else and comments kept."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 1 << 10, True
    document = yaml.load(params)
    for key in _keys(recipe):
        *blocks, last = key.split(".")
        block = document
        for part in blocks:
            block = block[part]
        _settle(block, last, _at(recipe, key))
    for choice in CHOICES:  # options of what is not chosen must not stay: DVC counts them, too
        block = document["train"][choice]
        for other in block.keys() - recipe["train"][choice].keys():
            del block[other]
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()


def _settle(block: Any, key: str, value: Any) -> None:
    """Give a key a value; where both are blocks, keep the comments of what stays."""
    if not isinstance(value, Mapping) or not isinstance(block.get(key), Mapping):
        if isinstance(value, list) and hasattr(block.get(key), "fa"):
            block[key][:] = value  # in its place, so that it is still written in one line
        else:
            block[key] = value
        return
    for old in [old for old in block[key] if old not in value]:
        del block[key][old]
    for option, of_option in value.items():
        _settle(block[key], option, of_option)


def _would_be_lost(params: str, recipe: Settings) -> bool:
    """Tell whether params.yaml has settings that neither Git nor a recipe has."""

    def settings(text: str) -> dict[str, Any]:
        values = YAML(typ="safe").load(text)
        keys = _expected_keys(values)
        return {key: _at(values, key) for key in keys}

    def kept() -> Iterator[dict[str, Any]]:
        show = ["git", "show", f"HEAD:./{paths.PARAMS}"]
        done = subprocess.run(show, capture_output=True, check=False, encoding="utf-8")
        if not done.returncode:
            yield settings(done.stdout)
        for name in names():
            known = read_recipe(name)
            yield {key: _at(known, key) for key in _keys(known)}

    now = settings(params)
    wanted = {key: _at(recipe, key) for key in _keys(recipe)}
    return now != wanted and all(now != known for known in kept())


def _run_dvc(arguments: list[str]) -> int:
    """Run `dvc exp run`; return its exit status. A Ctrl-C is its own to answer."""
    process = subprocess.Popen([sys.executable, "-m", "dvc", "exp", "run", *arguments])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
