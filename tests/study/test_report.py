"""python study/report.py: the page, in a terminal's words and in a browser."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from selenium.webdriver.chrome.webdriver import WebDriver

from study.report import main
from tests.architecture.sources import REPOSITORY
from tests.study.browser import chromium
from tests.study.driver import WITHIN_S, clean_environment, new_workplace
from tests.study.reporting.made_studies import SWITCH, completed, config, experiment, running, store
from tests.waiting import wait_until

# Drawing, and a browser: on a machine that is busy with other things, each takes minutes.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for name, (identity, trials) in experiment(configurations=10, seeds=1).items():
        store(folder, name, trials, identity)
    store(folder, "running", [completed(0, 0.5), running(1)], config(SWITCH))
    store(folder, "other", [completed(0, 0.5)], config(SWITCH, study={"objective": "f1_macro"}))
    return folder


def report(folder: Path, *arguments: str) -> int:
    return main([*arguments, "--runs-dir", str(folder / "runs")])


def test_a_study_that_has_trained_becomes_a_page_with_the_commit_it_ran_from(tmp_path):
    workplace = new_workplace(tmp_path)
    assert workplace.run("--trials", "1", within_s=800).exit_code == 0

    done = subprocess.run(
        [sys.executable, REPOSITORY / "study" / "report.py", "small", "--out", "r.html", "--export", "files"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    [trial] = workplace.trials()
    text = (tmp_path / "r.html").read_text()
    assert f"{trial.value:.4f}" in done.stdout
    assert f"{trial.value:.4f}" in text
    opening = optuna.load_study(storage=workplace.database_url, study_name="small").user_attrs["switchyard:openings"]
    assert opening[0]["versions"]["optuna"] == optuna.__version__
    assert (opening[0]["commit"] or "not run from a checkout")[:12] in text
    assert "validation split" in text
    assert (tmp_path / "files" / "time-per-epoch.svg").stat().st_size > 1000
    assert f"{trial.value!r}" in (tmp_path / "files" / "trials.csv").read_text()


def test_a_running_study_has_a_report_that_says_so(folder, tmp_path, capsys):
    assert report(folder, "running", "--out", str(tmp_path / "r.html")) == 0

    assert "1 of 2 trials not finished" in capsys.readouterr().out
    assert "1 of 2 trials not finished" in (tmp_path / "r.html").read_text()


def test_arms_of_other_scores_are_shown_and_not_paired(folder, tmp_path, capsys):
    assert report(folder, "constant", "other", "--out", str(tmp_path / "r.html")) == 0

    said = capsys.readouterr().out
    assert "shown side by side and not compared: study.objective is 'f1_micro' in 'constant'" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("absent", "--out", "{tmp}/r.html"), "there is no database"),
        (("switch", "switch", "--out", "{tmp}/r.html"), "study 'switch' is named twice"),
        (("switch", "--out", "{tmp}/absent/r.html"), "there is no folder {tmp}/absent; make it first"),
        (("switch", "--out", "{tmp}"), "--out {tmp} is a folder; name a file"),
        (("switch", "--out", "{tmp}/r.html", "--export", "{tmp}/file"), "--export {tmp}/file is a file"),
        (("switch", "--out", "{tmp}/r.html", "--export", "{tmp}/a/b"), "there is no folder {tmp}/a"),
        (("switch", "--out", "{tmp}/r.html", "--storage", "study.db"), "this is not a database URL"),
        (("absent", "--out", "{tmp}/r.html", "--storage", "sqlite:///{db}"), "no study 'absent' in"),
    ],
)
def test_bad_input_is_one_clear_error_and_writes_nothing(folder, tmp_path, capsys, arguments, said):
    (tmp_path / "file").touch()
    places = {"tmp": tmp_path, "db": folder / "runs" / "switch" / "study.db"}

    assert report(folder, *(argument.format(**places) for argument in arguments)) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said.format(**places) in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# From here on in a real browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with chromium({"browser": "ALL", "performance": "ALL"}) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(folder) -> Path:
    path = folder / "report.html"
    assert report(folder, "switch", "constant", "--out", str(path)) == 0
    return path


def look(browser: WebDriver, page: Path, width: int, scheme: str = "light", media: str = "screen") -> None:
    """Open the page and wait until its charts are drawn."""
    scheme_feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": scheme_feature})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get(page.as_uri())
    wait_until(lambda: browser.execute_script("return document.documentElement.dataset.drawn"), WITHIN_S)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 900, 1600])
def test_a_browser_draws_every_chart_without_a_request_an_error_or_a_sideways_scroll(browser, page, width, scheme):
    browser.get_log("performance")
    look(browser, page, width, scheme)

    charts, drawn = browser.execute_script(
        "const places = [...document.querySelectorAll('.chart')];"
        "return [places.length, places.filter(p => p.querySelector('svg [class*=mark-] path')).length];"
    )
    assert charts > 10
    assert drawn == charts
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    widest = browser.execute_script(
        "return Math.max(...[...document.querySelectorAll('.chart svg')].map(e => e.getBoundingClientRect().right))"
    )
    assert widest <= width
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert _requested(browser) <= {page.as_uri()}


def test_dark_and_light_are_the_readers_choice_and_charts_follow(browser, page):
    colours = {}
    for scheme in ("light", "dark"):
        look(browser, page, 900, scheme)
        colours[scheme] = browser.execute_script(
            "const label = document.querySelector('.chart svg .role-axis-title text');"
            "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(label).fill]"
        )

    assert colours["light"] == ["rgb(255, 255, 255)", "rgb(29, 35, 41)"]
    assert colours["dark"] == ["rgb(20, 24, 29)", "rgb(230, 234, 238)"]


def test_on_paper_it_is_light_whatever_the_screen_is_and_nothing_is_folded_away(browser, page):
    look(browser, page, 900, "dark")

    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})

    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    look(browser, page, 690, "dark", media="print")
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.execute_script("return [...document.querySelectorAll('details')].every(e => e.open)")
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def _requested(browser: WebDriver) -> set[str]:
    """The addresses that the page has asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
