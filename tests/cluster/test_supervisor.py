from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from storage.protocol.exit_codes import ExitCode
from storage.protocol.trial_dir import TrialDir
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]

# Notes its process id in a file of the folder that it is started in, and writes another one when it is terminated.
OBEDIENT = """
import os, pathlib, signal, sys
def save(number, frame):
    pathlib.Path('saved').touch()
    sys.exit(0)
signal.signal(signal.SIGUSR1, save)
pathlib.Path('obedient.part').write_text(str(os.getpid()))
os.rename('obedient.part', 'obedient')
while True:
    signal.pause()
"""
# Hears nothing but SIGKILL.
STUBBORN = """
import os, pathlib, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
pathlib.Path('stubborn.part').write_text(str(os.getpid()))
os.rename('stubborn.part', 'stubborn')
while True:
    signal.pause()
"""
# As above, but out of its launcher's process group and session, and an orphan.
RUNAWAY = "import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n" + STUBBORN


@pytest.fixture
def start(tmp_path):
    """Starts a supervisor over a Python program in tmp_path."""
    supervisors = []
    attempt = TrialDir(tmp_path / "trial").new_attempt()

    def start(grace_s: float, *command: str) -> subprocess.Popen:
        supervisor = subprocess.Popen(
            (sys.executable, "-m", "cluster.supervisor", str(grace_s), str(attempt.path), *command),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
        )
        supervisors.append(supervisor)
        return supervisor

    yield start
    for supervisor in supervisors:
        supervisor.stdin.close()
        supervisor.wait(60)


@pytest.mark.parametrize("exit_code", [0, 1, 2, 137])
def test_the_commands_exit_code_becomes_the_supervisors(start, exit_code):
    assert start(60, "sh", "-c", f"exit {exit_code}").wait(60) == exit_code


def test_a_command_that_a_signal_ended_counts_as_a_shell_counts_it(start):
    assert start(60, "sh", "-c", "kill -KILL $$").wait(60) == 128 + signal.SIGKILL


def test_a_runner_that_is_gone_gives_the_command_the_time_to_save(start, tmp_path):
    supervisor = start(60, sys.executable, "-c", OBEDIENT)
    process_named(tmp_path, "obedient")

    supervisor.stdin.close()

    assert supervisor.wait(60) == 0
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_every_signal_gives_the_command_the_time_to_save(start, tmp_path, number):
    supervisor = start(60, sys.executable, "-c", OBEDIENT)
    process_named(tmp_path, "obedient")

    supervisor.send_signal(number)

    assert supervisor.wait(60) == 0
    assert (tmp_path / "saved").exists()


def test_ranks_that_do_not_go_are_killed_after_the_grace_time(start, tmp_path):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    # The launcher passes the request on and waits.
    supervisor = start(0.5, "sh", "-c", f"trap '' USR1; {sys.executable} stubborn.py; exit 1")
    stubborn = process_named(tmp_path, "stubborn")

    supervisor.stdin.close()

    assert supervisor.wait(60) == 128 + signal.SIGTERM
    assert not stubborn.is_running()


@pytest.mark.parametrize("asked_first", [False, True])
def test_a_runner_in_a_hurry_does_not_wait_for_the_command_to_save(start, tmp_path, asked_first):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    supervisor = start(600, "sh", "-c", f"trap '' USR1; {sys.executable} stubborn.py; exit 1")
    stubborn = process_named(tmp_path, "stubborn")
    if asked_first:
        supervisor.stdin.close()

    supervisor.send_signal(signal.SIGQUIT)

    assert supervisor.wait(60) == 128 + signal.SIGTERM
    assert not stubborn.is_running()


def test_a_command_that_a_request_to_save_ends_was_interrupted_and_did_not_crash(start, tmp_path):
    # It does not listen yet, as Python does not in its first moments.
    supervisor = start(60, "sh", "-c", "touch deaf; exec sleep 1000")
    wait_until((tmp_path / "deaf").exists)

    supervisor.stdin.close()

    assert supervisor.wait(60) == 128 + signal.SIGTERM


def test_ranks_whose_attempt_has_a_successor_are_killed_without_a_time_to_save(start, tmp_path):
    supervisor = start(600, sys.executable, "-c", OBEDIENT)
    obedient = process_named(tmp_path, "obedient")

    TrialDir(tmp_path / "trial").new_attempt()

    assert supervisor.wait(60) == ExitCode.SUPERSEDED
    assert not obedient.is_running()
    assert not (tmp_path / "saved").exists()


def test_a_successor_does_not_wait_for_ranks_that_are_still_saving(start, tmp_path):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    supervisor = start(600, "sh", "-c", f"trap '' USR1; {sys.executable} stubborn.py; exit 1")
    stubborn = process_named(tmp_path, "stubborn")
    supervisor.stdin.close()

    TrialDir(tmp_path / "trial").new_attempt()

    assert supervisor.wait(60) == ExitCode.SUPERSEDED
    assert not stubborn.is_running()


def test_how_the_ranks_ended_and_how_long_they_were_there_is_written_down(start, tmp_path):
    assert start(60, "sh", "-c", "exit 7").wait(60) == 7

    record = TrialDir(tmp_path / "trial").attempt(1).read_exit()
    assert (record.exit_code, record.wall_s > 0) == (7, True)


def test_a_supervisor_says_how_long_it_lives_for_whoever_finds_that_its_node_is_gone(start, tmp_path):
    start(60, "sleep", "600")
    lived = tmp_path / "trial" / "attempt-01" / "lived"

    wait_until(lived.exists, 30)
    assert float(lived.read_text()) >= 0


@pytest.mark.parametrize("ending", ["exit 0", "kill -KILL $$"])
def test_processes_that_a_launcher_leaves_behind_do_not_outlive_it(start, tmp_path, ending):
    (tmp_path / "runaway.py").write_text(RUNAWAY)
    supervisor = start(60, "sh", "-c", f"{sys.executable} runaway.py; read line < go; {ending}")
    os.mkfifo(tmp_path / "go")
    runaway = process_named(tmp_path, "stubborn")

    (tmp_path / "go").write_text("\n")

    supervisor.wait(60)
    assert not runaway.is_running()


def test_a_command_is_told_when_its_supervisor_is_killed(start, tmp_path):
    supervisor = start(60, sys.executable, "-c", OBEDIENT)
    obedient = process_named(tmp_path, "obedient")

    supervisor.kill()

    # By the kernel, with SIGTERM: nobody would enforce a grace time.
    wait_until(lambda: not obedient.is_running() or obedient.status() == psutil.STATUS_ZOMBIE)
    assert not (tmp_path / "saved").exists()


def process_named(folder: Path, name: str) -> psutil.Process:
    """The process that has noted its id under this name."""
    wait_until((folder / name).exists)
    return psutil.Process(int((folder / name).read_text()))
