"""The page of `make app` in a browser: mouse, touch, keyboard and dropped files."""

import base64
import io
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from background import BackgroundCommand
from chromium import chromium, console_errors, requested
from image_pipeline.tensors.tensor_files import read_sample
from prediction.prediction_files import image_file, png_of_size
from project import IN_CI, ROOT, Project, require, run, wait_until

ENVIRONMENT = ROOT / ".venv-app"
TABS = ("Draw", "Image files", "Test images")

# When the pen was lifted, and when the latest prediction was shown, in milliseconds.
WATCH = """
window.lifted = window.predicted = null;
let shown = null;
addEventListener('pointerup', () => { window.lifted = performance.now(); }, true);
new MutationObserver(() => {
    const now = document.querySelector('.prediction')?.outerHTML;
    if (now && now !== shown) { shown = now; window.predicted = performance.now(); }
}).observe(document, {childList: true, subtree: true, attributes: true, characterData: true});
"""

SETTLED = "return performance.now() - Math.max(window.lifted, window.predicted ?? Infinity) > 1500"

# Drops files, [[name, base64 content], ...], as a file manager does.
DROP = """
const transfer = new DataTransfer();
for (const [name, content] of arguments[0]) {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
}
const target = document.querySelector('#files button');
for (const kind of ['dragenter', 'dragover', 'drop'])
    target.dispatchEvent(
        new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
"""

# Elements that are wider than the window.
TOO_WIDE = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('*')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.right > width + 0.5 || box.left < -0.5);
}).map(element => element.outerHTML.slice(0, 80));
"""


class Server(BackgroundCommand):
    """`make app` in a project, without make."""

    def __init__(self, project: Project, proxy: str) -> None:
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), proxy)
        proxies |= {"no_proxy": ""}
        proxies |= {name.upper(): value for name, value in proxies.items()}
        python = str(ENVIRONMENT / "bin/python")
        super().__init__(project, python, "-m", "image_pipeline", "app", env=proxies)

    def wait_for_address(self) -> str:
        """Wait for the last line of its output; return the address there."""
        wait_until(lambda: self.process.poll() is not None or "http://" in self.text, "the start")
        addresses = re.findall(r"http://127\.0\.0\.1:\d+/$", self.text.strip())
        if not addresses:
            pytest.fail(self.text)
        return str(addresses[0])


class Page:
    """The page in the browser."""

    def __init__(self, driver: webdriver.Chrome, server: Server, project: Project) -> None:
        self.driver = driver
        self.server = server
        self.address = server.wait_for_address()
        self.project = project

    def load(self, width: int = 1200) -> None:
        """Reload it in a window `width` pixels wide; below 500, emulate a phone with touch."""
        is_phone = width < 500
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": is_phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": is_phone})
        self.check()
        self.driver.get("about:blank")
        # Drop Gradio's own, of responses that nobody waits for any more.
        console_errors(self.driver)
        self.driver.get(self.address)
        wait_until(lambda: self.is_shown("#pad canvas"), "the pad")
        self.run(WATCH)

    def check(self) -> None:
        """Check that the console has no errors and that no other machine was contacted."""
        assert console_errors(self.driver) == []
        here = (self.address, "about:", "data:", "blob:")
        assert [url for url in requested(self.driver) if not url.startswith(here)] == []

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> list[WebElement]:
        """Return the visible elements."""
        found = self.driver.find_elements("css selector", selector)
        return [element for element in found if element.is_displayed()]

    def is_shown(self, selector: str, count: int = 1) -> bool:
        """Tell whether exactly `count` elements are visible."""
        script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent)"
        return bool(self.run(f"{script}.length === arguments[1]", selector, count))

    def text(self, selector: str) -> str:
        """Return the text of an element, empty if there is none."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.run(script, selector))

    def open_tab(self, name: str) -> None:
        (tab,) = [tab for tab in self.find("[role=tab]") if tab.text == name]
        tab.click()

    def draw_seven(self) -> None:
        """Draw with the mouse."""
        (canvas,) = self.find("#pad canvas")
        pen = ActionChains(self.driver, duration=10)
        pen.move_to_element_with_offset(canvas, -50, -80).click_and_hold()
        pen.move_by_offset(50, 0).move_by_offset(50, 0)
        for _ in range(8):
            pen.move_by_offset(-6, 20)
        pen.release().perform()

    def drawing(self) -> bytes:
        """Return what is on the pad, a PNG file."""
        address = self.run("return document.querySelector('#pad canvas').toDataURL('image/png')")
        return base64.b64decode(address.split(",")[1])

    def prediction(self) -> tuple[str, str]:
        """Wait for a prediction and its nearest images; return the class and its probability."""
        wait_until(lambda: self.is_shown(".nearest figure", 8), "the nearest images")
        found = re.search(r"Predicted class: (\S+), (\d+\.\d%)\.", self.text(".prediction"))
        assert found
        return found[1], found[2]

    def drop(self, files: dict[str, bytes]) -> list[list[str]]:
        """Drop files; return the rows of the table of predictions."""
        self.open_tab("Image files")
        wait_until(lambda: self.is_shown("#files button"), "the place for files")
        encoded = [[name, base64.b64encode(content).decode()] for name, content in files.items()]
        self.run(DROP, encoded)
        wait_until(lambda: self.is_shown(".results tbody tr", len(files)), "the table")
        rows = "return [...document.querySelectorAll('.results tbody tr')]"
        cells: list[list[str]] = self.run(
            f"{rows}.map(row => [...row.children].map(cell => cell.innerText))"
        )
        return cells

    def predict(self, files: dict[str, bytes], folder: Path) -> list[dict[str, Any]]:
        """Return what the command `predict` prints for files."""
        for name, content in files.items():
            (folder / name).write_bytes(content)
        names = [str(folder / name) for name in files]
        done = self.project.run("python", "-m", "image_pipeline", "predict", "--json", *names)
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[str, list[Any]]]:
    """Return the address of a proxy, and the requests it received: all that leave the machine."""
    received: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    received.append(connection.recv(1000))

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", received
        listening.shutdown(socket.SHUT_RDWR)  # ends `accept`, which closing does not


@pytest.fixture(scope="module")
def server(
    driver: webdriver.Chrome,  # noqa: ARG001 - skip before the server starts if there is no browser
    finished: Project,
    proxied: tuple[str, list[Any]],
) -> Iterator[Server]:
    server = Server(finished, proxied[0])
    try:
        yield server
        # Ctrl-C stops it without a traceback, and no other machine was contacted.
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
        assert server.text.splitlines()[-1] == "app: stopped"
        assert "Traceback" not in server.text
        assert proxied[1] == []
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if IN_CI:
        run("make", ".venv-app/complete", cwd=ROOT)
    complete = (ENVIRONMENT / "complete").exists()
    require(complete, "Gradio's environment (`make .venv-app/complete` makes it)")
    with chromium(tmp_path_factory.mktemp("chromium"), "1200,800") as started:
        started.get("about:blank")
        requested(started)  # discard those of the browser's start page
        yield started


@pytest.fixture
def page(driver: webdriver.Chrome, server: Server, finished: Project) -> Iterator[Page]:
    """Return the page, reloaded; check its console and its requests after the test."""
    page = Page(driver, server, finished)
    page.load()
    yield page
    page.check()


def test_a_stroke_is_predicted_within_a_second_and_as_the_command_does(
    page: Page, tmp_path: Path
) -> None:
    times = []
    for _ in range(3):
        page.draw_seven()
        wait_until(lambda: page.run(SETTLED), "the last prediction")
        times.append(page.run("return window.predicted - window.lifted"))
        prediction, drawing = page.prediction(), page.drawing()
        page.find("#pad button")[0].click()
        wait_until(lambda: not page.text(".prediction"), "an empty page")
    busy = max(1, os.getloadavg()[0] / (os.cpu_count() or 1))  # slower while other tests run
    assert min(times) < 1000 * busy
    (predicted,) = page.predict({"drawn.png": drawing}, tmp_path)
    assert prediction == (predicted["class"], f"{predicted['probability']:.1%}")


def test_ten_dropped_test_images_are_predicted_as_by_the_command(
    page: Page, tmp_path: Path
) -> None:
    sample = read_sample(page.project.root / "data/tensors/test.safetensors", range(10))
    files = {f"{number}.png": image_file(image[0]) for number, image in enumerate(sample.images)}
    expected = [
        [
            Path(row["image"]).name,
            row["class"] + ("\ndoubtful" if row["doubtful"] else ""),
            f"{row['probability']:.2%}",
            f"{row['runner_up']} ({row['runner_up_probability']:.2%})",
        ]
        for row in page.predict(files, tmp_path)
    ]
    assert page.drop(files) == expected
    assert len({row[1] for row in expected}) > 3
    assert page.prediction()[0] == expected[0][1].split()[0]  # the first one is shown
    assert network_input(page) == sample.images[0].tobytes()


def test_bad_files_get_an_error_each_and_the_server_keeps_running(page: Page) -> None:
    sample = read_sample(page.project.root / "data/tensors/test.safetensors", [0])
    photograph = image_file(sample.images[0, 0].repeat(10, 0).repeat(10, 1), "JPEG")
    files = {
        "notes.txt": b"<b>no image</b>",
        "torn.jpg": photograph[: len(photograph) // 2],
        "huge.png": png_of_size(50_000, 50_000),
        "good.png": image_file(sample.images[0, 0]),
    }
    rows = page.drop(files)
    assert [len(row) for row in rows] == [2, 2, 2, 4]
    errors = [row[1] for row in rows]
    assert "not an image" in errors[0]
    assert "truncated" in errors[1]
    assert "pixels" in errors[2]
    # It may come after the table.
    wait_until(lambda: page.text(".message").startswith("notes.txt: not an image"), "the message")
    page.open_tab("Test images")
    wait_until(lambda: page.is_shown("#number input"), "the number")
    page.find("#number input")[0].send_keys("123456")
    wait_until(lambda: "there is no test image 123456" in page.text(".message"), "the error")
    page.open_tab("Draw")
    page.draw_seven()
    page.prediction()
    assert "Traceback" not in page.server.text


def test_a_test_image_is_shown_with_its_true_class(page: Page) -> None:
    sample = read_sample(page.project.root / "data/tensors/test.safetensors", [12])
    page.open_tab("Test images")
    wait_until(lambda: page.is_shown("#number input"), "the number")
    page.find("#number input")[0].send_keys("12")
    page.prediction()
    actual = sample.info.class_names[int(sample.labels[0])]
    wait_until(lambda: f"its class is {actual}." in page.text(".prediction"), "its class")
    assert network_input(page) == sample.images[0].tobytes()


def test_the_head_shows_the_run(page: Page) -> None:
    metrics = json.loads((page.project.root / "metrics/test.json").read_text())
    commit = page.project.run("git", "rev-parse", "--short", "HEAD").stdout.strip()
    info = page.text(".run-info").replace("\n", " ")
    assert "Data set digits" in info
    assert f"Test accuracy {metrics['accuracy']:.2%} ({metrics['errors']} errors" in info
    assert f"Run {commit}" in info


def test_on_a_phone_nothing_is_too_wide_and_touch_draws(page: Page) -> None:
    page.load(width=390)
    box = page.run(
        "const box = document.querySelector('#pad canvas').getBoundingClientRect();"
        "return [box.left, box.top, box.width]"
    )
    path = [(0.4, 0.2), (0.6, 0.2), (0.55, 0.5), (0.5, 0.8)]
    for kind, points in (
        ("touchStart", path[:1]),
        *(("touchMove", [point]) for point in path[1:]),
        ("touchEnd", []),
    ):
        touches = [{"x": box[0] + x * box[2], "y": box[1] + y * box[2]} for x, y in points]
        page.driver.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches}
        )
    page.prediction()
    assert page.run("return scrollY") == 0  # the touch drew instead of scrolling
    page.drop({f"{'long' * 20}.png": image_file(np.zeros((28, 28), np.uint8)), "text": b"text"})
    for name in TABS:
        page.open_tab(name)
        wait_until(lambda: page.run(TOO_WIDE) == [], f"everything in the window at {name}")
        assert page.run("return document.documentElement.scrollWidth") == 390


def test_every_control_has_a_name_and_is_reached_with_tab(page: Page) -> None:
    reached = {}
    for name, control in (
        ("Draw", "#pad canvas"),
        ("Image files", "#files button"),
        ("Test images", "#number input"),
    ):
        page.load()
        reached[name] = press_tab_until(page, f"document.activeElement.innerText === '{name}'")
        page.driver.switch_to.active_element.send_keys(Keys.ENTER)
        assert press_tab_until(page, f"document.activeElement.matches('{control}')")
    assert set(reached) == set(TABS)


def test_the_keyboard_draws(page: Page) -> None:
    press_tab_until(page, "document.activeElement.matches('#pad canvas')")
    keys = ActionChains(page.driver).send_keys(" ", *[Keys.ARROW_DOWN] * 14).send_keys(" ")
    keys.perform()
    page.prediction()
    drawn = np.asarray(Image.open(io.BytesIO(page.drawing())).convert("L"))
    rows = np.flatnonzero(drawn.max(axis=1))
    columns = np.flatnonzero(drawn.max(axis=0))
    assert np.ptp(rows) > 4 * np.ptp(columns) > 0  # a vertical stroke
    press_tab_until(page, "document.activeElement.matches('#pad button')")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    wait_until(lambda: not page.text(".prediction"), "an empty page")


def press_tab_until(page: Page, condition: str) -> str:
    """Press Tab until the condition holds; return the focused element's accessible name."""
    for _ in range(20):
        if page.run(f"return {condition}"):
            return str(page.driver.switch_to.active_element.accessible_name)
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
    pytest.fail(f"Tab does not lead to an element with {condition}")


def network_input(page: Page) -> bytes:
    """Return the pixels of the image titled 'Network input'."""
    source = page.find(".prediction img")[0].get_attribute("src") or ""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))).tobytes()


def test_a_port_in_use_is_named(page: Page) -> None:
    port = page.address.split(":")[-1].rstrip("/")
    command = (str(ENVIRONMENT / "bin/python"), "-m", "image_pipeline", "app", "--port", port)
    done = page.project.run(*command, check=False)
    assert done.returncode == 1
    assert done.stderr == f"app: error: port {port} is not free; choose another with --port\n"


def test_a_missing_gradio_gives_an_error_with_a_remedy() -> None:
    done = run(sys.executable, "-m", "image_pipeline", "app", cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "app: error: Gradio is not in this environment; run `make app`, which makes one with it\n"
    )
