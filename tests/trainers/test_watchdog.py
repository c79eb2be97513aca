"""A rank that waits for one that hangs ends itself."""

from __future__ import annotations

import subprocess
import sys

from storage.protocol.exit_codes import ExitCode
from tests.trainers.tiny_trial import DEADLINE_S, ROOT


def run_with_watchdog(program: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, because a watchdog ends the one that it is in."""
    imports = "import threading, time\nfrom trainers.watchdog import Watchdog\n"
    command = (sys.executable, "-c", imports + program)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S)


def test_a_rank_without_progress_ends_with_the_exit_code_of_lost_peers_and_names_the_limits_variable():
    ended = run_with_watchdog("Watchdog(0.5).heartbeat()\nthreading.Event().wait()")

    assert ended.returncode == ExitCode.PEERS_LOST
    assert ended.stderr == (
        "error: no progress for 0.5 s; another rank or its node hangs. See SWITCHYARD_WATCHDOG_LIMIT_S.\n"
    )


def test_a_rank_that_gets_on_goes_on_for_longer_than_the_limit():
    ended = run_with_watchdog(
        "watchdog, end_s = Watchdog(1.0), time.monotonic() + 2.5\n"
        "while time.monotonic() < end_s:\n"
        "    watchdog.heartbeat()\n"
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_before_the_first_heartbeat_nothing_is_watched():
    # The ranks may wait for one another for longer than any of them may stand still.
    ended = run_with_watchdog(
        "watchdog, end_s = Watchdog(0.1), time.monotonic() + 0.5\nwhile time.monotonic() < end_s:\n    pass\n"
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_last_heartbeat_is_published_as_seconds_since_the_rank_began():
    ended = run_with_watchdog(
        "began_s, published = time.monotonic(), threading.Event()\n"
        "def publish(beaten_s):\n"
        "    print(0 <= beaten_s <= time.monotonic() - began_s)\n"
        "    published.set()\n"
        "watchdog = Watchdog(1000.0)\n"
        "watchdog.heartbeat()\n"
        "watchdog.publish_to(publish)\n"
        "published.wait()\n"
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


def test_a_file_system_that_is_away_does_not_end_the_heartbeat():
    ended = run_with_watchdog(
        "calls, published = [], threading.Event()\n"
        "watchdog = Watchdog(1000.0)\n"
        "def publish(beaten_s):\n"
        "    calls.append(beaten_s)\n"
        "    watchdog.heartbeat()\n"
        "    if len(calls) == 1:\n"
        "        raise OSError('stale file handle')\n"
        "    published.set()\n"
        "watchdog.heartbeat()\n"
        "watchdog.publish_to(publish)\n"
        "published.wait()\n"
    )

    assert (ended.returncode, ended.stderr) == (0, "")
