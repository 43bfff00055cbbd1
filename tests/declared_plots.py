"""What dvc.yaml has DVC draw: its own plots, and the plots of each stage."""

from typing import Any

from ruamel.yaml import YAML

from project import ROOT

_DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
_STAGE_PLOTS: dict[str, dict[str, Any]] = {
    path: settings
    for stage in _DVC["stages"].values()
    for plot in stage.get("plots", [])
    for path, settings in plot.items()
}

PICTURES = [path for path in _STAGE_PLOTS if path.endswith(".png")]
CHARTS: dict[str, dict[str, Any]] = {
    **{name: settings for plot in _DVC["plots"] for name, settings in plot.items()},
    **{path: settings for path, settings in _STAGE_PLOTS.items() if path not in PICTURES},
}
