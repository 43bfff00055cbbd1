"""Run a recipe: settings worth keeping, with the same result whatever was run before.

A recipe, recipes/<name>.yaml, sets the data set and everything that training depends on. These
settings replace those in params.yaml, and `dvc exp run` runs them.
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

from image_pipeline.common import paths
from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.files import write_bytes
from image_pipeline.common.git import git
from image_pipeline.common.params import check_params, read_params
from image_pipeline.experiments.named_yaml import NamedYaml
from image_pipeline.training.params import TrainParams

RECIPES = NamedYaml("recipe", Path("recipes"))
BACKUP = Path("params.yaml.bak")
DATA_KEYS = {"download": {"dataset"}, "tensorize": {"validation_fraction", "seed"}}
FOLDER_KEYS = {"channels", "image_size", "fit", "crop_fraction"}  # of `dataset: folder`
BLOCKS = {*DATA_KEYS, "train"}  # of a recipe, which has all keys of `train`
CHOICES = ("model", "transfer", "loss", "optimizer", "lr_schedule")

Settings = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", nargs="?", help="of the recipe; without it, all are listed")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        help="passed on to `dvc exp run`, such as -S train.seed=1 or --name mine",
    )


def run(arguments: argparse.Namespace) -> int:
    """List the recipes, or run one; return the exit status.

    Raises:
        ParamsError: there is no such recipe, or it is not valid or complete.
    """
    if arguments.name is None:
        RECIPES.print_all()
        return 0
    recipe = read_recipe(arguments.name)
    before = paths.PARAMS.read_bytes() if read_params() else b""
    after = with_recipe(before.decode(), recipe)
    path = RECIPES.path(arguments.name)
    _check_options(check_params(YAML(typ="safe").load(after), path).train, path)
    if _has_unsaved_settings(before.decode()):
        write_bytes(BACKUP, before)
        print(f"recipe: your changes to {paths.PARAMS} are kept in {BACKUP}")
    write_bytes(paths.PARAMS, after.encode())
    extra = arguments.arguments[arguments.arguments[:1] == ["--"] :]
    if status := _run_dvc(extra):
        return status
    metrics = json.loads(paths.TEST_METRICS.read_text(encoding="utf-8"))
    print(
        f"recipe: {arguments.name}{''.join(f' {word}' for word in extra)}: final test accuracy "
        f"{metrics['accuracy']:.2%} ({metrics['errors']} errors in {metrics['images']} images); "
        "`dvc exp show` lists it, and `git checkout params.yaml dvc.lock metrics plots && dvc "
        "checkout` restores the committed run"
    )
    return 0


def read_recipe(name: str) -> Settings:
    """Read a recipe.

    Raises:
        ParamsError: there is no such recipe, it is not valid YAML, or its blocks or the keys of the
            data set are wrong.
    """
    path = RECIPES.path(name)
    recipe = RECIPES.read(name)
    if not isinstance(recipe, Mapping) or recipe.keys() != BLOCKS:
        raise ParamsError(f"{path}: its blocks must be {' and '.join(sorted(BLOCKS))}")
    for block, keys in DATA_KEYS.items():
        _check_keys(f"{path}: {block}", recipe[block], keys | _folder(block, recipe["download"]))
    if "folder" in recipe["tensorize"]:
        _check_keys(f"{path}: tensorize.folder", recipe["tensorize"]["folder"], FOLDER_KEYS)
    return dict(recipe)


def _folder(block: str, download: object) -> set[str]:
    """Return the key of the images' format, which only a data set of one's own has."""
    own = isinstance(download, Mapping) and download.get("dataset") == "folder"
    return {"folder"} if own and block == "tensorize" else set()


def _check_keys(where: str, block: object, keys: set[str]) -> None:
    if not isinstance(block, Mapping) or block.keys() != keys:
        raise ParamsError(f"{where}: its keys must be {' and '.join(sorted(keys))}")


def with_recipe(params: str, recipe: Settings) -> str:
    """Return the text of params.yaml with a recipe's settings; all else and comments are kept."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 1 << 10, True
    document = yaml.load(params)
    for block in DATA_KEYS:
        for key, value in recipe[block].items():
            if key == "folder":
                document[block][key].update(value)
            else:
                document[block][key] = value
    # This also removes unused options: DVC would count them as settings of the run.
    _replace(document, "train", recipe["train"])
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()


def _replace(block: Any, key: str, value: Any) -> None:
    """Set a key, recursing into blocks so that the comments of remaining keys are kept."""
    if not isinstance(value, Mapping) or not isinstance(block.get(key), Mapping):
        if isinstance(value, list) and hasattr(block.get(key), "fa"):
            block[key][:] = value  # in place, so that it is still written on one line
        else:
            block[key] = value
        return
    for old in [old for old in block[key] if old not in value]:
        del block[key][old]
    for option, of_option in value.items():
        _replace(block[key], option, of_option)


def _check_options(train: TrainParams, path: Path) -> None:
    """Reject options of anything that is not chosen: most likely a misspelt name."""
    for key in CHOICES:
        choice = getattr(train, key)
        for other in sorted((choice.model_extra or {}).keys() - {choice.name}):
            raise ParamsError(
                f"{path}: train.{key}.{one_line(other, 40)}: unknown key; remove it or name it "
                f"{choice.name}, whose options are used"
            )


def _has_unsaved_settings(params: str) -> bool:
    """Return whether params.yaml has settings that are neither in Git's HEAD nor in a recipe."""
    settings = _settings(params)
    committed = git("show", f"HEAD:./{paths.PARAMS}")
    if committed is not None and _settings(committed) == settings:
        return False
    return all(read_recipe(name) != settings for name in RECIPES.names())


def _settings(params: str) -> Settings:
    """Return the settings in a params.yaml that a recipe would replace."""
    values = YAML(typ="safe").load(params)
    if not isinstance(values, Mapping):  # any file may have been committed
        return {}
    settings: Settings = {block: values.get(block) for block in BLOCKS}
    for block, keys in DATA_KEYS.items():
        if isinstance(settings[block], Mapping):
            kept = keys | _folder(block, values.get("download"))
            settings[block] = {key: settings[block].get(key) for key in kept}
            folder = settings[block].get("folder")
            if isinstance(folder, Mapping):
                settings[block]["folder"] = {key: folder.get(key) for key in FOLDER_KEYS}
    return settings


def _run_dvc(arguments: list[str]) -> int:
    """Run `dvc exp run`; return its exit status. Ctrl-C is left to DVC to handle."""
    process = subprocess.Popen([sys.executable, "-m", "dvc", "exp", "run", *arguments])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
