"""A real browser, where one is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

from tests.study.driver import WITHIN_S

CHROMIUM, CHROMEDRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))


@contextmanager
def chromium(logs: Mapping[str, str]) -> Iterator[WebDriver]:
    """Chromium without a window; skips the test where it is not installed.

    Args:
        logs: Of which kind of event to keep which level.
    """
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("Chromium is not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # A sandbox is not to be had as root, nor much shared memory in a container.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,2400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", dict(logs))
    browser = webdriver.Chrome(options, Service(CHROMEDRIVER))
    try:
        browser.set_page_load_timeout(WITHIN_S)
        yield browser
    finally:
        browser.quit()
