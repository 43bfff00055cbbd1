"""What the benchmarks share: the sitting's description, results.json, and the tables.

    python benchmarks/report.py

updates the README's table from results.json.
"""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)

MEASURED = ("src", "stages", "recipes", "params.yaml", "dvc.yaml", "requirements.lock")
# Seconds that are told in epochs of the public recipe, too, which depend less on the machine.
IN_PUBLIC_EPOCHS = {
    "time_to_97_5.fast_seconds",
    "time_to_97_5.portable_seconds",
    "time_to_98_0.fast_seconds",
    "time_to_98_0.portable_seconds",
    "cnn.quick_seconds",
    "repro.seconds",
}

Figures = dict[str, float | None]

PEERS = {
    "public": "the public recipe (`DataLoader`, Adam 1e-3, batches of 100)",
    "lightning": "the same under PyTorch Lightning",
    "keras": "Keras",
    "sklearn": "scikit-learn's `MLPClassifier`",
}


def sitting() -> dict[str, Any]:
    """Return when and where this is measured, and the commit that last changed what is."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found[1] if found else cpu
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "dvc")}
    return {
        "commit": _git("log", "-1", "--format=%h", "--abbrev=12", "--", *MEASURED),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    } | versions


def why_not_kept(*, whole: bool) -> str | None:
    """Say why figures measured now do not belong in results.json; None if they do.

    The file holds one sitting: what was measured of one commit, on one machine, in a row.

    Args:
        whole: whether all parts are measured, which begins a new sitting.
    """
    if _git("status", "--porcelain", "--", *MEASURED):
        return "what is measured is not committed"
    groups = read_results().values()
    same = ("commit", "processor", "cores")
    here = sitting()
    if not whole and not all(group[key] == here[key] for group in groups for key in same):
        return "results.json is of another commit or machine, and not all parts are measured"
    return None


def read_results() -> dict[str, Any]:
    """Return the groups of results.json."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return results


def publish(group: str, figures: Figures, epoch_seconds: float, *, keep: bool) -> None:
    """Print the figures of a group as a table; with `keep`, save them, and the README's table.

    Args:
        group: of figures that were measured together.
        figures: by name.
        epoch_seconds: of the public recipe, measured just before.
        keep: whether to save the group, and to drop those of other sittings.
    """
    here = sitting()
    figures["public_epoch_seconds"] = epoch_seconds
    for name in IN_PUBLIC_EPOCHS & figures.keys():
        seconds = figures[name]
        figures[f"{name.removesuffix('_seconds')}_in_public_epochs"] = (
            None if seconds is None else seconds / epoch_seconds
        )
    width = max(map(len, figures))
    print(f"\n{group:{width}}  value")
    for name, value in sorted(figures.items()):
        print(f"{name:{width}}  {'not reached' if value is None else f'{value:.3f}'}")
    if keep:
        rounded = {name: value and float(f"{value:.4g}") for name, value in figures.items()}
        own = here | {"figures": dict(sorted(rounded.items()))}
        results = {
            name: other
            for name, other in read_results().items()
            if all(other[key] == here[key] for key in ("commit", "processor", "cores"))
        }
        RESULTS.write_text(json.dumps(results | {group: own}, indent=2) + "\n")
        README.write_text(with_table(README.read_text(), read_results()))


def with_table(readme: str, results: dict[str, Any]) -> str:
    """Return the README's text with the table of `results`, if they have it."""
    if "time" not in results:
        return readme
    return TABLE.sub(lambda marks: f"{marks[1]}{_table(results)}{marks[2]}", readme)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _table(results: dict[str, Any]) -> str:
    about = results["time"]
    figures = about["figures"]

    def reaching(target: str, name: str) -> str:
        seconds = figures[f"time_to_{target}.{name}_seconds"]
        if seconds is None:
            after = figures.get(f"run.{name}_seconds") or figures[f"run.{name}_{target}_seconds"]
            return f"not in {after:.0f} s"
        share = figures[f"time_to_{target}.{name}_reached"]
        return f"{seconds:.1f} s" + ("" if share == 1 else f" ({share:.0%} of the seeds)")

    lines = [
        "| training time to a test accuracy, over several seeds | 97.5% | 98.0% |",
        "| --- | --- | --- |",
    ]
    own = {kernels: f"**this project**, `numerics: {kernels}`" for kernels in ("fast", "portable")}
    lines += [
        f"| {label} | {reaching('97_5', name)} | {reaching('98_0', name)} |"
        for name, label in (own | PEERS).items()
        if f"time_to_97_5.{name}_reached" in figures
    ]
    lines += [
        "",
        "Where only some seeds get there: all runs' time over the number that did. Measured by "
        f"`make bench` on {about['date']} at commit {about['commit']}, on {about['cores']} cores "
        f"of an {about['processor']} where an epoch of the public recipe took "
        f"{figures['public_epoch_seconds']:.1f} s; every figure is in "
        "[results.json](benchmarks/results.json).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(), read_results()))
