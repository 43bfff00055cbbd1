"""The page of `make app`, in a browser, as a user has it: mouse, finger, keys and dropped files."""

import base64
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from chromium import chromium, console_errors, requested
from image_pipeline.tensors.tensor_files import read_sample
from project import IN_CI, ROOT, Project, require

ENVIRONMENT = ROOT / ".venv-app"
PATIENCE = 300  # seconds: only the stroke's answer must be quick
TABS = ("Draw", "Image files", "Test images")

# When the pen was lifted, and when the answer that is shown last came, in milliseconds.
WATCH = """
window.lifted = window.answered = null;
let shown = null;
addEventListener('pointerup', () => { window.lifted = performance.now(); }, true);
new MutationObserver(() => {
    const now = document.querySelector('.seen')?.outerHTML;
    if (now && now !== shown) { shown = now; window.answered = performance.now(); }
}).observe(document, {childList: true, subtree: true, attributes: true, characterData: true});
"""

SETTLED = "return performance.now() - Math.max(window.lifted, window.answered ?? Infinity) > 1500"

# Drops files, [[name, content in base 64], ...], as a file manager does.
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

# The elements that reach beyond the window's sides.
TOO_WIDE = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('*')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.right > width + 0.5 || box.left < -0.5);
}).map(element => element.outerHTML.slice(0, 80));
"""


class Server:
    """`make app` in a project, without make: the address it serves, and what it said."""

    def __init__(self, project: Project, proxy: str) -> None:
        self._log = project.root.parent / "app.log"
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), proxy)
        proxies |= {"no_proxy": ""}
        proxies |= {name.upper(): value for name, value in proxies.items()}
        environment = project.environment(proxies)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the second start is the quicker for it
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [ENVIRONMENT / "bin/python", "-m", "image_pipeline", "app"],
                cwd=project.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_for_address(self) -> str:
        """Return what its last line says, once it is there."""
        wait(lambda: self.process.poll() is not None or "http://" in self.said(), "the start")
        addresses = re.findall(r"http://127\.0\.0\.1:\d+/$", self.said().strip())
        if not addresses:
            pytest.fail(self.said())
        return str(addresses[0])

    def said(self) -> str:
        return self._log.read_text()


class Page:
    """The page in the browser."""

    def __init__(self, driver: webdriver.Chrome, server: Server, project: Project) -> None:
        self.driver = driver
        self.server = server
        self.address = server.wait_for_address()
        self.project = project

    def load(self, width: int = 1200) -> None:
        """Load it anew, in a window of that many pixels: below 500 a phone's, with touch."""
        is_phone = width < 500
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": is_phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": is_phone})
        self.check()
        self.driver.get("about:blank")
        console_errors(self.driver)  # Gradio's own, of an answer that nobody waits for any more
        self.driver.get(self.address)
        wait(lambda: self.is_shown("#pad canvas"), "the pad")
        self.ask(WATCH)

    def check(self) -> None:
        """Check that the console has no error, and that nothing was asked of another machine."""
        assert console_errors(self.driver) == []
        here = (self.address, "about:", "data:", "blob:")
        assert [url for url in requested(self.driver) if not url.startswith(here)] == []

    def ask(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> list[WebElement]:
        """Return the elements that are shown."""
        found = self.driver.find_elements("css selector", selector)
        return [element for element in found if element.is_displayed()]

    def is_shown(self, selector: str, count: int = 1) -> bool:
        """Tell whether so many elements are shown."""
        script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent)"
        return bool(self.ask(f"{script}.length === arguments[1]", selector, count))

    def text(self, selector: str) -> str:
        """Return the text of an element, empty if there is none."""
        return str(
            self.ask("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        )

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
        address = self.ask("return document.querySelector('#pad canvas').toDataURL('image/png')")
        return base64.b64decode(address.split(",")[1])

    def answer(self) -> tuple[str, str]:
        """Wait for an answer with its training images; return the class and its probability."""
        wait(lambda: self.is_shown(".nearest figure", 8), "the nearest images")
        found = re.search(r"The network says (\S+), (\d+\.\d%)\.", self.text(".seen"))
        assert found
        return found[1], found[2]

    def drop(self, files: dict[str, bytes]) -> list[list[str]]:
        """Drop files; return the rows of the table that then comes."""
        self.open_tab("Image files")
        wait(lambda: self.is_shown("#files button"), "the place for files")
        coded = [[name, base64.b64encode(content).decode()] for name, content in files.items()]
        self.ask(DROP, coded)
        wait(lambda: self.is_shown(".results tbody tr", len(files)), "the table")
        rows = "return [...document.querySelectorAll('.results tbody tr')]"
        cells: list[list[str]] = self.ask(
            f"{rows}.map(row => [...row.children].map(cell => cell.innerText))"
        )
        return cells

    def predict(self, files: dict[str, bytes], folder: Path) -> list[dict[str, Any]]:
        """Return what the command line says of files."""
        for name, content in files.items():
            (folder / name).write_bytes(content)
        names = [str(folder / name) for name in files]
        done = self.project.run("python", "-m", "image_pipeline", "predict", "--json", *names)
        return [json.loads(line) for line in done.stdout.splitlines()]


def wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {PATIENCE} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[str, list[Any]]]:
    """Return the address of a proxy, and what has come to it: anything that leaves the machine."""
    came: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    came.append(connection.recv(1000))

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", came
        listening.shutdown(socket.SHUT_RDWR)  # which ends the waiting, as closing does not


@pytest.fixture(scope="module")
def server(
    driver: webdriver.Chrome,  # noqa: ARG001 - without a browser there is no need to start
    finished: Project,
    proxied: tuple[str, list[Any]],
) -> Iterator[Server]:
    server = Server(finished, proxied[0])
    try:
        yield server
        # Ctrl-C ends it, without a traceback, and nothing was asked of another machine.
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE) == 0
        assert server.said().splitlines()[-1] == "app: ended"
        assert "Traceback" not in server.said()
        assert proxied[1] == []
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if IN_CI:
        subprocess.run(["make", ".venv-app/complete"], cwd=ROOT, check=True)
    made = (ENVIRONMENT / "complete").exists()
    require(made, "Gradio's environment (`make .venv-app/complete` makes it)")
    with chromium(tmp_path_factory.mktemp("chromium"), "1200,800") as started:
        started.get("about:blank")
        requested(started)  # forget those of the browser's own first page
        yield started


@pytest.fixture
def page(driver: webdriver.Chrome, server: Server, finished: Project) -> Iterator[Page]:
    """Return the page, loaded anew; after the test its console and its requests are looked at."""
    page = Page(driver, server, finished)
    page.load()
    yield page
    page.check()


def test_a_stroke_is_answered_within_a_second_and_as_predict_answers(
    page: Page, tmp_path: Path
) -> None:
    times = []
    for _ in range(3):
        page.draw_seven()
        wait(lambda: page.ask(SETTLED), "an answer after which no other comes")
        times.append(page.ask("return window.answered - window.lifted"))
        answer, drawing = page.answer(), page.drawing()
        page.find("#pad button")[0].click()
        wait(lambda: not page.text(".seen"), "an empty page")
    busy = max(1, os.getloadavg()[0] / (os.cpu_count() or 1))  # as it is with other tests beside
    assert min(times) < 1000 * busy
    (predicted,) = page.predict({"drawn.png": drawing}, tmp_path)
    assert answer == (predicted["class"], f"{predicted['probability']:.1%}")


def test_ten_dropped_test_images_get_what_predict_says(page: Page, tmp_path: Path) -> None:
    sample = read_sample(page.project.root / "data/tensors/test.safetensors", range(10))
    files = {f"{number}.png": png(image) for number, image in enumerate(sample.images)}
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
    assert page.answer()[0] == expected[0][1].split()[0]  # the first one is shown
    assert seen_by_the_network(page) == sample.images[0].tobytes()


def test_bad_files_get_a_line_each_and_the_server_lives_on(page: Page) -> None:
    sample = read_sample(page.project.root / "data/tensors/test.safetensors", [0])
    photograph = io.BytesIO()
    Image.fromarray(sample.images[0, 0]).resize((300, 300)).save(photograph, "JPEG")
    files = {
        "notes.txt": b"<b>no image</b>",
        "torn.jpg": photograph.getvalue()[:-1000],
        "huge.png": huge_png(),
        "good.png": png(sample.images[0]),
    }
    rows = page.drop(files)
    assert [len(row) for row in rows] == [2, 2, 2, 4]
    said = [row[1] for row in rows]
    assert "no image" in said[0]
    assert "truncated" in said[1]
    assert "pixels" in said[2]
    assert page.text(".message").startswith("notes.txt: no image")
    page.open_tab("Test images")
    wait(lambda: page.is_shown("#number input"), "the number")
    page.find("#number input")[0].send_keys("123456")
    wait(lambda: "there is no test image 123456" in page.text(".message"), "the refusal")
    page.open_tab("Draw")
    page.draw_seven()
    page.answer()
    assert "Traceback" not in page.server.said()


def test_a_test_image_is_shown_with_its_class(page: Page) -> None:
    sample = read_sample(page.project.root / "data/tensors/test.safetensors", [12])
    page.open_tab("Test images")
    wait(lambda: page.is_shown("#number input"), "the number")
    page.find("#number input")[0].send_keys("12")
    page.answer()
    actual = sample.description.class_names[int(sample.labels[0])]
    wait(lambda: f"its class is {actual}." in page.text(".seen"), "its class")
    assert seen_by_the_network(page) == sample.images[0].tobytes()


def test_it_says_which_run_it_shows(page: Page) -> None:
    metrics = json.loads((page.project.root / "metrics/test.json").read_text())
    commit = page.project.run("git", "rev-parse", "--short", "HEAD").stdout.strip()
    facts = page.text(".facts").replace("\n", " ")
    assert "Data set digits" in facts
    assert f"Test accuracy {metrics['accuracy']:.2%} ({metrics['errors']} errors" in facts
    assert f"Run {commit}" in facts


def test_on_a_phone_nothing_is_too_wide_and_a_finger_draws(page: Page) -> None:
    page.load(width=390)
    box = page.ask(
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
    page.answer()
    assert page.ask("return scrollY") == 0  # the finger drew, and did not scroll
    page.drop({f"{'long' * 20}.png": png(np.zeros((1, 28, 28), np.uint8)), "text": b"text"})
    for name in TABS:
        page.open_tab(name)
        wait(lambda: page.ask(TOO_WIDE) == [], f"everything in the window at {name}")
        assert page.ask("return document.documentElement.scrollWidth") == 390


def test_every_control_has_a_name_and_is_reached_by_keys(page: Page) -> None:
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


def test_keys_draw(page: Page) -> None:
    press_tab_until(page, "document.activeElement.matches('#pad canvas')")
    keys = ActionChains(page.driver).send_keys(" ", *[Keys.ARROW_DOWN] * 14).send_keys(" ")
    keys.perform()
    page.answer()
    drawn = np.asarray(Image.open(io.BytesIO(page.drawing())).convert("L"))
    rows = np.flatnonzero(drawn.max(axis=1))
    columns = np.flatnonzero(drawn.max(axis=0))
    assert np.ptp(rows) > 4 * np.ptp(columns) > 0  # an upright stroke
    press_tab_until(page, "document.activeElement.matches('#pad button')")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    wait(lambda: not page.text(".seen"), "an empty page")


def press_tab_until(page: Page, condition: str) -> str:
    """Press Tab until the condition holds; return the accessible name of where that is."""
    for _ in range(20):
        if page.ask(f"return {condition}"):
            return str(page.driver.switch_to.active_element.accessible_name)
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
    pytest.fail(f"Tab does not lead to where {condition}")


def seen_by_the_network(page: Page) -> bytes:
    """Return the pixels of the picture of what the network saw."""
    source = page.find(".seen img")[0].get_attribute("src") or ""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))).tobytes()


def png(pixels: np.ndarray) -> bytes:
    """Return a PNG file of grey pixels uint8 `[1, H, W]`."""
    content = io.BytesIO()
    Image.fromarray(pixels[0]).save(content, "PNG")
    return content.getvalue()


def huge_png() -> bytes:
    """Return a PNG file of 50,000 x 50,000 pixels, most of them missing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(50_001 * 20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_a_port_that_is_taken_is_named(page: Page) -> None:
    port = page.address.split(":")[-1].rstrip("/")
    command = (str(ENVIRONMENT / "bin/python"), "-m", "image_pipeline", "app", "--port", port)
    done = page.project.run(*command, check=False)
    assert done.returncode == 1
    assert done.stderr == f"app: error: port {port} cannot be had; give another by --port\n"


def test_without_gradio_one_line_says_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "image_pipeline", "app"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "app: error: Gradio is not in this environment; run `make app`, which makes one with it\n"
    )
