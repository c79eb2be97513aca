"""Notifications of a study's end, sent by apprise to a web server that is real."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.pool import PoolError
from storage.database.lease import LeaseError
from storage.protocol.variables import NOTIFY_URLS
from study.config import ConfigError, load_config
from study.ledger import DatabaseLostError
from study.loop import StudyHaltedError
from study.notify import Notifier, StudyEnd
from tests.study.driver import new_workplace
from tests.study.fakes import FakeStop, new_plan
from tests.study.small_study import write_config

SECRET = "token0815"


@dataclass
class Service:
    """Takes messages, as a chat does."""

    url: str = ""
    taken: list[dict[str, str]] = field(default_factory=list)
    is_open: threading.Event = field(default_factory=threading.Event)
    """While it is not set, whoever sends is kept waiting."""


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    service.is_open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            service.is_open.wait()
            service.taken.append(json.loads(content))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"json://{SECRET}@127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield service
    service.is_open.set()
    server.shutdown()
    thread.join()
    server.server_close()


class Study:
    """One that has been begun: what it says, and how it ends."""

    def __init__(self, folder: Path, urls: str, ends: list[StudyEnd] | None = None) -> None:
        self.said: list[str] = []
        self.environment = {NOTIFY_URLS: urls} if urls else {}
        self.plan, self.stop = new_plan(folder), FakeStop()
        with Notifier.from_environment(ends, self.environment, self.said.append) as self.notifier:
            self.environment_in_the_block = dict(self.environment)

    def end(self, error: Exception | None = None) -> None:
        with self.notifier.tells_ends_of(self.plan, self.stop, list):
            if error is not None:
                raise error


@pytest.mark.parametrize(
    ("error", "title", "words"),
    [
        (StudyHaltedError("trials 1, 2, 3 failed alike"), "Study small has halted", "trials 1, 2, 3 failed alike\n"),
        (PoolError("no jobs"), "Study small has halted", "no jobs\nTrials: none, of 3."),
        (DatabaseLostError("away for 900 s"), "Study small lost its database", "away for 900 s\nThe same command"),
    ],
)
def test_an_end_by_an_error_is_told_and_stays_the_error(service, tmp_path, error, title, words):
    study = Study(tmp_path, service.url)

    with pytest.raises(type(error)) as raised:
        study.end(error)

    assert raised.value is error
    [message] = service.taken
    assert message["title"] == title
    assert message["message"].startswith(words)
    assert study.said == []


def test_only_the_ends_that_a_config_names_are_told(service, tmp_path):
    study = Study(tmp_path, service.url, [StudyEnd.HALTED])

    study.end()
    with pytest.raises(StudyHaltedError):
        study.end(StudyHaltedError("no ranks"))

    assert [message["title"] for message in service.taken] == ["Study small has halted"]


def test_a_stop_that_a_person_asked_for_and_a_study_that_another_driver_took_over_are_not_told(service, tmp_path):
    study = Study(tmp_path, service.url)

    with pytest.raises(LeaseError):
        study.end(LeaseError("taken over"))
    study.stop.requests = 1
    study.end()
    with pytest.raises(DatabaseLostError):
        study.end(DatabaseLostError("away"))

    assert service.taken == []


def test_what_cannot_be_sent_is_one_notice_without_the_url_and_keeps_the_message_from_nobody_else(service, tmp_path):
    study = Study(tmp_path, f"json://{SECRET}@127.0.0.1:1 {service.url}")

    study.end()

    assert [message["title"] for message in service.taken] == ["Study small has finished"]
    assert study.said == [
        f"that the study is finished could not be sent to URL 1 of 2 in {NOTIFY_URLS}",
    ]


def test_a_service_that_hangs_is_not_waited_for_longer_than_the_bound(service, tmp_path, monkeypatch):
    study = Study(tmp_path, service.url)
    monkeypatch.setattr("study.notify._SENT_WITHIN_S", 3.0)
    service.is_open.clear()

    study.end()

    assert service.taken == []
    assert "URL 1 of 1" in study.said[0]


def test_a_url_that_apprise_cannot_use_is_told_at_the_start_without_its_words(tmp_path):
    study = Study(tmp_path, f"{SECRET} nosuchservice://{SECRET} json://127.0.0.1:1")

    assert study.said == [f"{NOTIFY_URLS}: URL 1, 2 of 3 is none that apprise can use"]


def test_a_check_that_takes_too_long_blames_no_url(service, tmp_path, monkeypatch):
    monkeypatch.setattr("study.notify._SENT_WITHIN_S", 0.01)

    study = Study(tmp_path, service.url)

    assert study.said == []


def test_the_environment_lacks_the_urls_while_other_processes_inherit_it_and_has_them_for_the_next_study(tmp_path):
    url = f"json://{SECRET}@127.0.0.1:1"
    study = Study(tmp_path, url)

    assert study.environment_in_the_block == {}
    assert study.environment == {NOTIFY_URLS: url}


def test_a_config_that_wants_notifications_without_anybody_to_tell_is_told_once(tmp_path):
    wanting, silent = Study(tmp_path, "", list(StudyEnd)), Study(tmp_path, "")
    wanting.end()
    silent.end()

    assert len(wanting.said) == 1
    assert f"{NOTIFY_URLS} is not set" in wanting.said[0]
    assert silent.said == []


def test_a_config_names_ends_which_are_no_part_of_the_study_s_identity(tmp_path):
    path = write_config(tmp_path)

    plain = load_config(path, [])
    asking = load_config(path, ['notify.on=["halted", "finished"]'])

    assert plain.ends_to_tell() is None
    assert asking.ends_to_tell() == (StudyEnd.HALTED, StudyEnd.FINISHED)
    assert asking.identity() == plain.identity()
    assert load_config(path, ["notify={}"]).ends_to_tell() == tuple(StudyEnd)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('notify.on=["ended"]', "notify.on.0: Input should be 'finished', 'halted' or 'database_lost'"),
        ('notify.urls="json://x"', "notify.urls is an unknown key; valid keys are on."),
    ],
)
def test_what_a_config_may_not_say_of_notifications_is_refused(tmp_path, setting, words):
    with pytest.raises(ConfigError) as refused:
        load_config(write_config(tmp_path), [setting])

    assert words in str(refused.value)


def test_a_real_study_tells_its_counts_and_its_best_trial_and_shows_nobody_the_url(service, tmp_path):
    workplace = new_workplace(tmp_path, ranks=1)

    done = workplace.run("--trials", "1", **{NOTIFY_URLS: service.url})

    assert done.exit_code == 0, done.output
    [message] = service.taken
    assert message["title"] == "Study small has finished"
    assert message["message"].startswith("Trials: 1 completed, of 1.\nBest trial: 0, f1_micro ")
    assert "learning_rate=" in message["message"]
    written = b"".join(workplace.files().values()) + done.output.encode()
    assert SECRET.encode() not in written
