"""What must be equal on two machines for the same bits, and the words for what is not."""

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from image_pipeline import numerics
from image_pipeline.common.errors import one_line
from image_pipeline.training.params import TrainParams

PACKAGE = Path(__file__).parents[2]
LIBRARIES = ("numpy", "scipy", "torch")  # as `numerics.facts` has them
MAX_SKEW = 1.0  # seconds between two clocks: PyTorch's rendezvous compares them

Facts = dict[str, Any]


def facts_of(params: TrainParams, script: Path) -> Facts:
    """Return what decides a run's result on this machine, but for the data.

    Nothing that computes is loaded for it.

    Args:
        params: of the training.
        script: the stage's, code beyond the package.
    """
    chosen = {"models": params.model.name, "augmentations": params.augmentation.custom}
    settings = params.model_dump(exclude={"model", "optimizer"}) | {
        choice: {"name": block.name, block.name: block.options}
        for choice, block in (("model", params.model), ("optimizer", params.optimizer))
    }
    processor = f"{platform.machine()}{'' if numerics.has_avx2() else ' without AVX2'}"
    facts: Facts = {
        "commit": _commit(),
        "code": {name: _hash(path) for name, path in _code(chosen, script)},
        "settings": dict(_leaves({"train": settings}))
        | {name: version(name) for name in LIBRARIES}
        | {"the processor": processor},
    }
    return json.loads(json.dumps(facts))  # type: ignore[no-any-return] # as the others hear them


def data_facts(data: Sequence[Path]) -> Facts:
    """Return the hashes of the files that a run reads."""
    return {path.as_posix(): _hash(path) for path in data}


def difference(first: Facts, other: Facts) -> str | None:
    """Return what of another machine is not as on the first one, in words for it; None if nothing.

    Both may lack the data. The other's clock is held against this one's.
    """
    for name in sorted(first["code"].keys() | other["code"].keys()):
        if first["code"].get(name) != other["code"].get(name):
            commits = f"the first machine is at commit {_shown(first['commit'])}"
            if first["commit"] == other["commit"]:
                remedy = f"{commits} as this one, and one of them has changes"
            else:
                remedy = f"{commits}, this one at {_shown(other['commit'])}: `git checkout` it"
            return f"{_shown(name)} is not as on the first machine; {remedy}"
    for name in sorted(first["settings"].keys() | other["settings"].keys()):
        there, here = (facts["settings"].get(name, "missing") for facts in (first, other))
        if there != here:
            return f"{_shown(name)} is {_shown(here)} here and {_shown(there)} on the first machine"
    for name in sorted(first.get("data", {}).keys() & other.get("data", {}).keys()):
        if first["data"][name] != other["data"][name]:
            return (
                f"{_shown(name)} has other bytes than on the first machine; `dvc pull` it, or make "
                "it anew with `dvc repro --force tensorize`"
            )
    skew = other["clock"] - time.time()
    if abs(skew) > MAX_SKEW:
        which = "ahead of" if skew > 0 else "behind"
        return (
            f"the clock is {abs(skew):.0f} s {which} the first machine's, and they may be "
            f"{MAX_SKEW:.0f} s apart; have both set by the network (NTP)"
        )
    return None


def _code(chosen: Mapping[str, str], script: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of the package; of networks and augmentations only what is chosen."""
    for path in (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.csv")):
        folder, *rest = path.relative_to(PACKAGE).parts
        if folder not in chosen or rest[-1] in ("__init__.py", f"{chosen[folder]}.py"):
            yield f"src/{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}", path
    yield f"stages/{script.name}", script


def _leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _commit() -> str:
    """Return the commit's short name, for people; empty where Git does not know."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8")
    except OSError:
        return ""
    return done.stdout.strip() if not done.returncode else ""


def _shown(value: object) -> str:
    return one_line(value, 80)
