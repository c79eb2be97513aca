"""A study in the browser: learning curves while trials run, and nobody's eyes but one's own."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import psutil
import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By

from tests.architecture.sources import REPOSITORY
from tests.study.browser import chromium
from tests.study.driver import WITHIN_S, RunningDriver, clean_environment, new_workplace, slow_training
from tests.study.listening import listening_sockets
from tests.waiting import wait_until

# Whole studies and a browser: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)

DASHBOARD = REPOSITORY / "study" / "dashboard.py"


@dataclass(frozen=True)
class Dashboard:
    """A running study/dashboard.py."""

    process: psutil.Popen
    address: str
    """With the token, as it was printed."""

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or 0

    @property
    def token(self) -> str:
        return urlsplit(self.address).query.removeprefix("token=")

    def request(self, path: str, method: str = "GET", cookie: str = "") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, headers={"Cookie": cookie} if cookie else {})
        return connection.getresponse()

    def log_in(self) -> str:
        """The cookie."""
        return (self.request(f"/?token={self.token}").getheader("Set-Cookie") or "").partition(";")[0]


@contextmanager
def dashboard_of(url: str) -> Iterator[Dashboard]:
    process = psutil.Popen(
        [sys.executable, str(DASHBOARD), "--storage", url],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Tests that a shell runs in the background inherit that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield Dashboard(process, process.stdout.readline().strip())
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory) -> Iterator[Dashboard]:
    """Of a small study that nobody runs."""
    url = f"sqlite:///{tmp_path_factory.mktemp('dashboard') / 'study.db'}"
    optuna.create_study(storage=url, study_name="small").optimize(lambda trial: trial.suggest_float("x", 0, 1), 3)
    with dashboard_of(url) as dashboard:
        yield dashboard


@pytest.mark.parametrize("path", ["/", "/dashboard", "/dashboard/studies/1", "/api/studies", "/static/bundle.js"])
@pytest.mark.parametrize("cookie", ["none", "wrong", "malformed"])
def test_who_does_not_know_the_token_sees_nothing(dashboard, path, cookie):
    cookies = {"none": "", "wrong": f"switchyard-{dashboard.port}=guess", "malformed": "{}[]=;;,"}

    answer = dashboard.request(path, cookie=cookies[cookie])

    assert answer.status == 403
    assert b"study/dashboard.py" in answer.read()


@pytest.mark.parametrize("guess", ["", "guess", "%C3%A9"])
def test_a_wrong_token_opens_nothing(dashboard, guess):
    answer = dashboard.request(f"/?token={guess}")

    assert answer.status == 403
    assert answer.getheader("Set-Cookie") is None


def test_the_printed_address_gives_a_cookie_that_scripts_and_other_sites_cannot_use_and_leads_on(dashboard):
    answer = dashboard.request(f"/?token={dashboard.token}")

    assert answer.status == 303
    assert answer.getheader("Location") == "/dashboard"
    cookie = answer.getheader("Set-Cookie") or ""
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def test_the_cookie_opens_the_dashboard_and_its_data(dashboard):
    cookie = dashboard.log_in()

    assert b"<title>Optuna Dashboard</title>" in dashboard.request("/dashboard", cookie=cookie).read()
    [study] = json.loads(dashboard.request("/api/studies", cookie=cookie).read())["study_summaries"]
    assert study["study_name"] == "small"


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT"])
def test_nothing_can_be_changed(dashboard, method):
    cookie = dashboard.log_in()

    answer = dashboard.request("/api/studies/1", method, cookie)

    assert answer.status == 405
    assert dashboard.request("/api/studies/1", cookie=cookie).status == 200


def test_each_dashboard_has_a_token_of_its_own(dashboard, tmp_path):
    url = f"sqlite:///{tmp_path / 'other.db'}"
    optuna.create_study(storage=url)
    with dashboard_of(url) as other:
        assert other.token != dashboard.token
        assert len(other.token) >= 32


def test_it_listens_on_the_loopback_only(dashboard):
    assert listening_sockets(dashboard.process) == {f"tcp 0100007F:{dashboard.port:04X}"}


def test_the_token_is_in_no_command_line(dashboard):
    assert dashboard.token not in " ".join(dashboard.process.cmdline())


def test_ctrl_c_ends_it_without_a_word(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(storage=url)
    with dashboard_of(url) as dashboard:
        dashboard.process.send_signal(signal.SIGINT)

        assert dashboard.process.wait(timeout=WITHIN_S) == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///absent.db", "there is no database sqlite:///absent.db"),
        ("study.db", "--storage: this is not a database URL"),
        ("postgresql://ada:hunter2@db/studies", "has a password in it"),
    ],
)
def test_a_database_that_cannot_be_shown_is_one_clear_error(tmp_path, url, said):
    done = subprocess.run(
        [sys.executable, str(DASHBOARD), "--storage", url],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert not list(tmp_path.iterdir())


# From here on: a real study that trains, in a real browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with chromium({"browser": "ALL"}) as browser:
        yield browser


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Iterator[RunningDriver]:
    """A driver whose first trial trains for longer than anybody looks, and has finished some epochs."""
    workplace = new_workplace(tmp_path_factory.mktemp("training"), *slow_training(epochs=100_000))
    with workplace.start() as driver:
        driver.wait_for_epochs(trial=0, attempt=1, count=5)
        wait_until(lambda: len(workplace.trials()[0].intermediate_values) >= 5, WITHIN_S)
        yield driver


@contextmanager
def served_by_optuna_dashboard(url: str) -> Iterator[str]:
    """The address of a plain optuna-dashboard."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    process = subprocess.Popen(
        [program, "--host", "127.0.0.1", "--port", str(port), url],
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _answers(port), WITHIN_S)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def served_by_ours(url: str) -> Iterator[str]:
    with dashboard_of(url) as dashboard:
        yield dashboard.address


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("serve", [served_by_ours, served_by_optuna_dashboard])
def test_a_browser_shows_a_training_trial_and_its_learning_curve(browser, training, serve, tmp_path):
    with serve(training.workplace.database_url) as address:
        browser.get(address)
        root = f"http://{urlsplit(address).netloc}/dashboard"
        wait_until(lambda: "small" in _text(browser), WITHIN_S)

        browser.get(f"{root}/studies/1")
        curves = wait_until(lambda: _curves(browser), WITHIN_S)
        browser.save_screenshot(str(tmp_path / "study.png"))

        browser.get(f"{root}/studies/1/trials")
        wait_until(lambda: "Trial 0" in _text(browser), WITHIN_S)
        browser.save_screenshot(str(tmp_path / "trials.png"))

        assert "Running" in _text(browser)
        assert training.is_running()
        # A page that stays open would go on asking a server that is gone.
        browser.get("about:blank")
        errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert errors == []
        [curve] = curves
        assert curve["name"].startswith("trial #0")
        stored = training.workplace.trials()[0].intermediate_values
        assert curve["x"][:5] == [0, 1, 2, 3, 4]
        assert curve["y"][:5] == [stored[epoch] for epoch in range(5)]


def _text(browser: WebDriver) -> str:
    return browser.find_element(By.TAG_NAME, "body").text


def _curves(browser: WebDriver) -> list[dict]:
    """What the plot of intermediate values draws."""
    return browser.execute_script(
        "const plot = document.getElementById('graph-intermediate-values');"
        "return plot && plot.data ? plot.data.map(t => ({name: t.name, x: [...t.x], y: [...t.y]})) : [];"
    )
