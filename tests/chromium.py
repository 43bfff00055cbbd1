"""A headless Chromium without network access."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver

from project import require


@contextmanager
def chromium(profile: Path, size: str) -> Iterator[webdriver.Chrome]:
    """Start a browser with an empty profile; skip the test where there is none.

    It logs the console and the requests of its pages.

    Args:
        profile: an empty folder.
        size: of the window, `width,height` in pixels.
    """
    browser, service = shutil.which("chromium") or "", shutil.which("chromedriver") or ""
    require(browser and service, "Chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--window-size={size}",
        f"--user-data-dir={profile}",
        # No network: no name is resolved, and the proxy, which this machine's own addresses do not
        # go through, is a port that nobody listens on.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--proxy-server=127.0.0.1:9",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        yield started
    finally:
        started.quit()


def console_errors(driver: webdriver.Chrome) -> list[str]:
    """Return the console's errors since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def requested(driver: webdriver.Chrome) -> list[str]:
    """Return the addresses that the browser has asked for since the last call."""
    events: list[dict[str, Any]] = [
        json.loads(entry["message"])["message"] for entry in driver.get_log("performance")
    ]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
