"""What the benchmarks share: the machine's description, results.json, and the tables.

    python benchmarks/report.py

updates the README's table from results.json.
"""

import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)

Figures = dict[str, float | None]

PEERS = {
    "public": "the public recipe (`DataLoader`, Adam 1e-3, batches of 100)",
    "lightning": "the same under PyTorch Lightning",
    "keras": "Keras",
    "sklearn": "scikit-learn's `MLPClassifier`",
}


def machine() -> dict[str, Any]:
    """Return the processor, cores and versions of this machine."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found[1] if found else cpu
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "dvc")}
    cores = os.cpu_count()
    return {"processor": cpu, "cores": cores, "python": platform.python_version()} | versions


def publish(figures: Figures, *, keep: bool) -> None:
    """Print the figures as a table; with `keep`, merge them into results.json and the README."""
    about = machine()
    width = max(map(len, figures))
    print(f"{'figure':{width}}  value")
    for name, value in sorted(figures.items()):
        print(f"{name:{width}}  {'not reached' if value is None else f'{value:.3f}'}")
    where = "not saved"
    if keep:
        before = json.loads(RESULTS.read_text())["figures"] if RESULTS.exists() else {}
        rounded = {name: value and float(f"{value:.4g}") for name, value in figures.items()}
        results = {"machine": about, "figures": dict(sorted((before | rounded).items()))}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        README.write_text(with_table(README.read_text(), results))
        where = f"in {RESULTS.relative_to(ROOT)} and in the README's table"
    shown = ", ".join(f"{key} {value}" for key, value in about.items())
    print(f"{len(figures)} figures on {shown}; {where}")


def with_table(readme: str, results: dict[str, Any]) -> str:
    """Return the README's text with the table of `results`."""
    return TABLE.sub(lambda marks: f"{marks[1]}{_table(results)}{marks[2]}", readme)


def _table(results: dict[str, Any]) -> str:
    figures, about = results["figures"], results["machine"]

    def reaching(target: str, name: str) -> str:
        seconds = figures[f"time_to_{target}.{name}_seconds"]
        if seconds is None:
            after = figures.get(f"run.{name}_seconds") or figures[f"run.{name}_{target}_seconds"]
            return f"not in {after:.0f} s"
        share = figures[f"time_to_{target}.{name}_reached"]
        return f"{seconds:.1f} s" + ("" if share == 1 else f" ({share:.0%} of the seeds)")

    lines = [
        "| training time to a test accuracy, over 10 seeds | 97.5% | 98.0% |",
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
        f"`make bench` on {about['cores']} cores of an {about['processor']}; every figure is in "
        "[results.json](benchmarks/results.json).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(), json.loads(RESULTS.read_text())))
