"""Tells people how a study ended, by the services that apprise knows: `[notify]` in a config.

The services' URLs hold credentials. They come from the environment, which lacks them while a study runs, so that no
other process inherits them, and stand in no message, log or command line. Sending is a process of its own that has so
many seconds: whatever becomes of it, the study ends as it would have.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from storage.protocol.variables import NOTIFY_URLS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from study.plan import StudyPlan

log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parent.parent
_SENT_WITHIN_S = 20.0
_COUNTED_WITHIN_S = 4.0
_REASON_LENGTH = 500


class StudyEnd(StrEnum):
    """An end that somebody may want to be told of. A stop that was asked for is none."""

    FINISHED = "finished"
    """All of its trials are over."""
    HALTED = "halted"
    """It needs a person to put something right."""
    DATABASE_LOST = "database_lost"
    """Its database was away for too long."""


class _Stop(Protocol):
    def is_requested(self) -> bool: ...


@dataclass(frozen=True)
class Notifier:
    """Who is told, of which ends."""

    urls: tuple[str, ...]
    ends: frozenset[StudyEnd]
    say: Callable[[str], None]

    @classmethod
    @contextmanager
    def from_environment(
        cls, ends: Sequence[StudyEnd] | None, environment: MutableMapping[str, str], say: Callable[[str], None]
    ) -> Iterator[Notifier]:
        """The services that the environment names. In the block, it does not name them.

        Args:
            ends: What the config asks for; None where it says nothing of notifications.
            say: Told what will keep people from being told.
        """
        named = environment.pop(NOTIFY_URLS, None)
        try:
            yield cls._checked(tuple((named or "").split()), ends, say)
        finally:
            # A Python program may run one study after another.
            if named is not None:
                environment[NOTIFY_URLS] = named

    @classmethod
    def _checked(cls, urls: tuple[str, ...], ends: Sequence[StudyEnd] | None, say: Callable[[str], None]) -> Notifier:
        if ends is not None and not urls:
            say(f"[notify] is in the config and {NOTIFY_URLS} is not set, so nobody will be told of the study's end")
        notifier = cls(urls, frozenset(StudyEnd if ends is None else ends) if urls else frozenset(), say)
        if notifier.ends:
            unsuitable, checked_all = notifier._send("--check", {})
            # A login node may be too busy to check them in time: no reason to blame a URL.
            if unsuitable and checked_all:
                say(f"{NOTIFY_URLS}: URL {_numbers(unsuitable)} of {len(urls)} is none that apprise can use")
        return notifier

    @contextmanager
    def tells_ends_of(
        self, plan: StudyPlan, stop: _Stop, trials: Callable[[], Sequence[FrozenTrial]]
    ) -> Iterator[None]:
        """In the block, a study runs. How it ends is sent when the block has ended, before anything else happens."""
        try:
            yield
        except Exception as error:
            if not stop.is_requested() and (end := _end_by(error)) is not None:
                self._tell(end, plan, str(error), trials)
            raise
        if not stop.is_requested():
            self._tell(StudyEnd.FINISHED, plan, "", trials)

    def _tell(self, end: StudyEnd, plan: StudyPlan, reason: str, trials: Callable[[], Sequence[FrozenTrial]]) -> None:
        if end not in self.ends:
            return
        found = None if end is StudyEnd.DATABASE_LOST else _within_seconds(trials)
        failed, _ = self._send("", message(end, plan, reason, found))
        if failed:
            self.say(
                f"that the study is {end.replace('_', ' ')} could not be sent to URL {_numbers(failed)} of "
                f"{len(self.urls)} in {NOTIFY_URLS}"
            )

    def _send(self, option: str, sent: dict[str, str]) -> tuple[list[int], bool]:
        """Have a process send it to all.

        Returns:
            The numbers, from 1, of those for which that has failed, and whether the process has got through all.
        """
        command = [sys.executable, "-m", "study.send_notification", *filter(None, [option])]
        environment = {**os.environ, NOTIFY_URLS: " ".join(self.urls), "PYTHONPATH": str(_ROOT), "PYTHONSAFEPATH": "1"}
        try:
            # Ctrl-C is for the driver, and what a service says may hold its URL.
            done = subprocess.run(
                command,
                env=environment,
                input=json.dumps(sent).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_SENT_WITHIN_S,
                start_new_session=True,
            )
            said, got_through = done.stdout, done.returncode == 0
        except subprocess.TimeoutExpired as error:
            log.warning("notifications took longer than %.0f s", _SENT_WITHIN_S)
            said, got_through = error.stdout or b"", False
        except OSError as error:
            log.warning("no notification could be sent: %s", error)
            said, got_through = b"", False
        succeeded = {int(line) for line in said.split() if line.isdigit()}
        return [number for number in range(1, len(self.urls) + 1) if number not in succeeded], got_through


def message(end: StudyEnd, plan: StudyPlan, reason: str, trials: Sequence[FrozenTrial] | None) -> dict[str, str]:
    """Title and body, as plain text.

    Args:
        reason: Why it ended, where it has not finished.
        trials: None if the database cannot be asked.
    """
    from study.closing_table import count_outcomes
    from study.display import format_parameters
    from study.finished_trials import best_trial

    lines = [reason[:_REASON_LENGTH]] if reason else []
    if trials is None:
        lines.append("The same command goes on with the study.")
    else:
        lines.append(f"Trials: {count_outcomes(trials) or 'none'}, of {plan.config.study.total_trials}.")
        if (best := best_trial(trials)) is not None:
            score = f"{plan.config.study.objective} {best.values[0]:.4f}"
            lines.append(f"Best trial: {best.number}, {score}, {format_parameters(best.params)}.")
    words = {
        StudyEnd.FINISHED: "has finished",
        StudyEnd.HALTED: "has halted",
        StudyEnd.DATABASE_LOST: "lost its database",
    }
    return {"title": f"Study {plan.name} {words[end]}", "body": "\n".join(lines)}


def _end_by(error: Exception) -> StudyEnd | None:
    from storage.database.lease import LeaseError
    from study.ledger import DatabaseLostError

    if isinstance(error, LeaseError):
        # The study goes on, with another driver.
        return None
    return StudyEnd.DATABASE_LOST if isinstance(error, DatabaseLostError) else StudyEnd.HALTED


def _within_seconds(trials: Callable[[], Sequence[FrozenTrial]]) -> Sequence[FrozenTrial] | None:
    from storage.database.calls import ThreadedCalls

    try:
        return ThreadedCalls().call(trials, lambda waited_s: waited_s >= _COUNTED_WITHIN_S)
    # Whatever it is, the study's own end is what counts.
    except Exception:
        log.exception("the trials could not be counted for a notification")
        return None


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
