"""What must be equal on all hosts for the same bits, and a description of what differs."""

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from image_pipeline import numerics
from image_pipeline.common.errors import one_line
from image_pipeline.common.git import git
from image_pipeline.common.hashes import sha256
from image_pipeline.training.params import TrainParams

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("numpy", "scipy", "torch")  # as in `numerics.facts`
MAX_CLOCK_SKEW = 1.0  # seconds: PyTorch's rendezvous compares the hosts' clocks

Fingerprint = dict[str, Any]


def environment_fingerprint(params: TrainParams, script: Path) -> Fingerprint:
    """Return what determines a run's result on this host, except the data.

    It imports neither torch nor NumPy.

    Args:
        params: the block `train` of params.yaml.
        script: the stage's script, the only code outside the package.
    """
    chosen = {"models": params.model.name, "augmentations": params.augmentation.custom}
    processor = f"{platform.machine()}{'' if numerics.has_avx2() else ' without AVX2'}"
    fingerprint: Fingerprint = {
        "commit": git("rev-parse", "--short", "HEAD") or "",  # for messages
        "code": {name: sha256(path) for name, path in _code(chosen, script)},
        "settings": dict(_flatten({"train": params.effective()}))
        | {name: version(name) for name in LIBRARIES}
        | {"the processor": processor},
    }
    return json.loads(json.dumps(fingerprint))  # type: ignore[no-any-return] # as other hosts get it


def data_fingerprint(paths: Sequence[Path]) -> Fingerprint:
    """Return the hashes of the files that a run reads."""
    return {path.as_posix(): sha256(path) for path in paths}


def describe_mismatch(coordinator: Fingerprint, host: Fingerprint) -> str | None:
    """Return the first difference of another host from the coordinator, for a message there.

    Data is compared if both have its hashes; the host's `clock`, with this host's clock.

    Returns:
        None if nothing differs.
    """
    for name in sorted(coordinator["code"].keys() | host["code"].keys()):
        if coordinator["code"].get(name) != host["code"].get(name):
            theirs, ours = (_shown(each["commit"]) for each in (coordinator, host))
            cause = f"is at commit {theirs}, this machine at {ours}; run `git checkout {theirs}`"
            if theirs == ours:
                cause = f"is at commit {ours}, too, and one of the two has uncommitted changes"
            return f"{_shown(name)} differs from the coordinator's, which {cause}"
    for name in sorted(coordinator["settings"].keys() | host["settings"].keys()):
        theirs, ours = (each["settings"].get(name, "missing") for each in (coordinator, host))
        if theirs != ours:
            return f"{_shown(name)} is {_shown(ours)} here and {_shown(theirs)} on the coordinator"
    for name in sorted(coordinator.get("data", {}).keys() & host.get("data", {}).keys()):
        if coordinator["data"][name] != host["data"][name]:
            return (
                f"{_shown(name)} differs from the coordinator's; run `dvc pull`, or rebuild it "
                "with `dvc repro --force tensorize weights`"
            )
    skew = host["clock"] - time.time()
    if abs(skew) > MAX_CLOCK_SKEW:
        direction = "ahead of" if skew > 0 else "behind"
        return (
            f"the clock is {abs(skew):.0f} s {direction} the coordinator's, at most "
            f"{MAX_CLOCK_SKEW:.0f} s is allowed; synchronize both by the network (NTP)"
        )
    return None


def _code(chosen: Mapping[str, str], script: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of the package; of networks and augmentations, only the chosen ones."""
    for path in (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.csv")):
        folder, *rest = path.relative_to(PACKAGE).parts
        if folder not in chosen or rest[-1] in ("__init__.py", f"{chosen[folder]}.py"):
            yield f"src/{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}", path
    yield f"stages/{script.name}", script


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: object) -> str:
    return one_line(value, 80)
