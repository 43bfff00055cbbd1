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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.files import write_bytes
from image_pipeline.common.params import check_params, read_params
from image_pipeline.training.params import TrainParams

FOLDER = Path("recipes")
BACKUP = Path("params.yaml.bak")
OF_THE_DATA = {"download": {"dataset"}, "tensorize": {"validation_fraction", "seed"}}
BLOCKS = {*OF_THE_DATA, "train"}  # of a recipe; it has all of the last

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
    path = FOLDER / f"{arguments.name}.yaml"
    _check_options(check_params(YAML(typ="safe").load(after), path).train, path)
    if _would_be_lost(before.decode()):
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
        ParamsError: there is none of this name, or it is no YAML, or a block is missing or too
            many, or a key of the data.
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
    if not isinstance(recipe, Mapping) or recipe.keys() != BLOCKS:
        raise ParamsError(f"{path}: its blocks must be {' and '.join(sorted(BLOCKS))}")
    for block, keys in OF_THE_DATA.items():
        if not isinstance(recipe[block], Mapping) or recipe[block].keys() != keys:
            raise ParamsError(f"{path}: {block}: its keys must be {' and '.join(sorted(keys))}")
    return dict(recipe)


def _check_options(train: TrainParams, path: Path) -> None:
    """Refuse options of what is not chosen, most likely a name misspelt."""
    for key, choice in (("model", train.model), ("optimizer", train.optimizer)):
        for other in sorted((choice.model_extra or {}).keys() - {choice.name}):
            problem = f"unknown key; options are those of {choice.name}, which is chosen"
            raise ParamsError(f"{path}: train.{key}.{one_line(other, 40)}: {problem}")


def with_recipe(params: str, recipe: Settings) -> str:
    """Return the text of params.yaml with a recipe's settings, all else and comments kept."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 1 << 10, True
    document = yaml.load(params)
    for block in OF_THE_DATA:
        for key, value in recipe[block].items():
            document[block][key] = value
    # Options of what is not chosen go with it: DVC counts them, too.
    _settle(document, "train", recipe["train"])
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


def _would_be_lost(params: str) -> bool:
    """Tell whether params.yaml has settings that neither Git nor a recipe has."""
    now = _settings(params)
    show = ["git", "show", f"HEAD:./{paths.PARAMS}"]
    done = subprocess.run(show, capture_output=True, check=False, encoding="utf-8")
    if not done.returncode and _settings(done.stdout) == now:
        return False
    return all(read_recipe(name) != now for name in names())


def _settings(params: str) -> Settings:
    """Return what a recipe has of the text of params.yaml."""
    values = YAML(typ="safe").load(params)
    if not isinstance(values, Mapping):  # what Git has may be anything
        return {}
    settings: Settings = {block: values.get(block) for block in BLOCKS}
    for block, keys in OF_THE_DATA.items():
        if isinstance(settings[block], Mapping):
            settings[block] = {key: settings[block].get(key) for key in keys}
    return settings


def _run_dvc(arguments: list[str]) -> int:
    """Run `dvc exp run`; return its exit status. A Ctrl-C is its own to answer."""
    process = subprocess.Popen([sys.executable, "-m", "dvc", "exp", "run", *arguments])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
