"""The page of `dvc plots show` and `dvc plots diff` in a browser without network access."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from chromium import chromium, console_errors
from declared_plots import CHARTS, PICTURES
from project import LONGER, SMALL, Project

LINES = [name for name, settings in CHARTS.items() if settings["template"] == "simple"]
MATRICES = [name for name, settings in CHARTS.items() if "confusion" in settings["template"]]
DRAW_SECONDS = 60
MIN_COLOURED_PIXELS = 200  # a legend alone has about 20

# Keeps each chart that the page draws, so that its marks can be read.
RECORD_VIEWS = """
let embed;
window.views = {};
Object.defineProperty(window, 'vegaEmbed', {
    set: value => { embed = value; },
    get: () => (target, spec) => embed(target, spec).then(result => {
        window.views[target.slice(1)] = result.view;
        return result;
    }),
});
"""

# The data of all marks of one kind, group by group: [[datum, ...], ...].
MARKS = """
const [id, kind] = arguments, found = [];
const visit = item => {
    if (item.marktype === kind && item.role === 'mark') {
        const plain = item.items.filter(i => isFinite(i.x) && isFinite(i.y)).map(i => i.datum);
        found.push(JSON.parse(JSON.stringify(plain)));
    }
    (item.items || []).forEach(visit);
};
visit(window.views[id].scenegraph().root);
return found;
"""


def element_id(name: str) -> str:
    """Return the id that DVC gives to a plot's element."""
    return re.sub(r"[^A-Za-z0-9]", "_", name)


class Page:
    """A page of plots, loaded and drawn."""

    def __init__(self, driver: webdriver.Chrome, path: Path, charts: int) -> None:
        self.driver = driver
        driver.get_log("browser")  # discard errors of the previous page
        driver.get(path.as_uri())
        if charts:
            WebDriverWait(driver, DRAW_SECONDS).until(
                lambda _: self.run("return Object.keys(window.views).length") == charts
            )

    def run(self, script: str, *arguments: str) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def errors(self) -> list[str]:
        """Return the console's errors so far."""
        return console_errors(self.driver)

    def pictures(self) -> list[tuple[str, int]]:
        """Return the source and the width in pixels (0: not loaded) of each image."""
        script = "return [...document.images].map(i => [i.getAttribute('src'), i.naturalWidth])"
        return [tuple(found) for found in self.run(script)]


def drawn(page: Page, name: str, kind: str) -> list[dict[str, Any]]:
    """Return the data of all marks of one kind in a chart."""
    return [datum for group in page.run(MARKS, element_id(name), kind) for datum in group]


def coloured_pixels(page: Page, name: str) -> int:
    """Count the pixels of a chart on the screen that are neither white, grey nor black."""
    element = page.driver.find_element("id", element_id(name))
    screenshot = Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
    pixels = np.asarray(screenshot, np.int64)
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 30).sum())


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    # The window holds the whole page: what is outside is not drawn.
    with chromium(tmp_path_factory.mktemp("chromium"), "1400,6000") as started:
        started.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORD_VIEWS})
        yield started


@pytest.fixture(scope="module")
def shown(driver: webdriver.Chrome, finished: Project) -> Page:
    finished.run("python", "-m", "image_pipeline.commands.plots_page")
    finished.run("dvc", "plots", "show")
    return Page(driver, finished.root / "dvc_plots/index.html", len(CHARTS))


def check_quiet_and_offline(page: Page) -> None:
    assert page.errors() == []
    loaded = page.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [address for address in loaded if not address.startswith("file:")] == []
    linked = "return [...document.querySelectorAll('[src], link[href]')].map(e => e.src || e.href)"
    assert [a for a in page.run(linked) if not a.startswith(("file:", "data:"))] == []


def test_the_page_has_exactly_the_declared_plots(shown: Page) -> None:
    ids = shown.run("return [...document.body.children].map(element => element.id)")
    assert sorted(ids) == sorted(element_id(name) for name in [*CHARTS, *PICTURES])
    assert len(shown.pictures()) == len(PICTURES)
    assert all(width >= 200 for _, width in shown.pictures())
    check_quiet_and_offline(shown)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_drawn_with_title_and_axis_labels(shown: Page, name: str) -> None:
    assert coloured_pixels(shown, name) > MIN_COLOURED_PIXELS
    script = "return [...document.getElementById(arguments[0]).querySelectorAll('svg text')]"
    texts = shown.run(f"{script}.map(text => text.textContent)", element_id(name))
    # An axis without a label shows the name of its column.
    labels = {CHARTS[name].get(f"{axis}_label") or CHARTS[name][axis] for axis in "xy"}
    assert {CHARTS[name]["title"], *labels} <= set(texts)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Loss", ["train_loss", "validation_loss"]),
        ("Accuracy", ["train_accuracy", "validation_accuracy"]),
        ("Reliability", ["accuracy", "perfect"]),
    ],
)
def test_two_lines_share_one_axis(shown: Page, name: str, fields: list[str]) -> None:
    counts = Counter(datum["field"] for datum in drawn(shown, name, "line"))
    assert sorted(counts) == fields
    if name != "Reliability":
        assert set(counts.values()) == {SMALL["train.epochs"]}


@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_has_a_cell_for_every_pair_of_classes(shown: Page, name: str) -> None:
    cells = {(datum["actual"], datum["predicted"]) for datum in drawn(shown, name, "rect")}
    assert cells == {*product("0123456789", repeat=2)}


def test_the_matrices_agree_with_the_metrics(shown: Page, finished: Project) -> None:
    metrics = json.loads((finished.root / "metrics/test.json").read_text())
    counts = {
        (datum["actual"], datum["predicted"]): datum.get("xy_count", 0)
        for datum in drawn(shown, "plots/predictions.csv", "rect")
    }
    assert sum(counts.values()) == metrics["images"]
    wrong = sum(count for (actual, predicted), count in counts.items() if actual != predicted)
    assert wrong == metrics["errors"] > 0
    recalls = {
        datum["actual"]: datum["percent_of_y"]
        for datum in drawn(shown, "Recall by class", "rect")
        if datum["actual"] == datum["predicted"]
    }
    with (finished.root / "plots/classes.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    expected = {row["class"]: float(row["recall"]) for row in classes}
    assert recalls == pytest.approx(expected, abs=1e-6)
    assert len(set(recalls.values())) > 1
    scores = {
        datum["class"]: float(datum["f1"]) for datum in drawn(shown, "plots/classes.csv", "rect")
    }
    assert scores == {row["class"]: float(row["f1"]) for row in classes}


def test_the_page_of_a_comparison_draws_both_revisions(
    driver: webdriver.Chrome, finished: Project, tmp_path: Path
) -> None:
    changed = finished.copy_to(tmp_path / "changed")
    changed.set_params({"train.epochs": LONGER})
    changed.run("dvc", "repro")
    changed.run("python", "-m", "image_pipeline.commands.plots_page")
    changed.run("dvc", "plots", "diff", "HEAD")
    page = Page(driver, changed.root / "dvc_plots/index.html", len(CHARTS))
    for name in CHARTS:
        kind = "line" if name in LINES else "rect"
        revisions = {datum["rev"] for datum in drawn(page, name, kind)}
        assert revisions == {"HEAD", "workspace"}
        assert coloured_pixels(page, name) > MIN_COLOURED_PIXELS
    names = [picture.replace("/", "_") for picture in PICTURES]
    wanted = [f"static/{revision}_{name}" for revision in ("HEAD", "workspace") for name in names]
    found = page.pictures()
    assert sorted(source for source, _ in found) == sorted(wanted)
    assert all(width >= 200 for _, width in found)
    check_quiet_and_offline(page)


def test_without_the_template_no_chart_is_drawn(
    driver: webdriver.Chrome, finished: Project, tmp_path: Path
) -> None:
    """Show that the network is off, so that the tests above would fail without the scripts."""
    plain = finished.copy_to(tmp_path / "plain")
    (plain.root / ".dvc/config.local").unlink(missing_ok=True)
    plain.run("dvc", "plots", "show")
    page = Page(driver, plain.root / "dvc_plots/index.html", charts=0)
    assert page.run("return document.querySelectorAll('svg, canvas').length") == 0
    assert any("ERR_PROXY_CONNECTION_FAILED" in error for error in page.errors())
