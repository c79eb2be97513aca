"""The runner: with stand-ins for the launcher in the first half, with ranks that train in the second."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from cluster import private_network
from cluster.attempt import AttemptEnd, AttemptRequest, EndKind, rank_command, rank_environment, run_attempt
from cluster.launchers import RankLayout
from storage.protocol.records import EpochMetrics, Outcome, TrialResult
from storage.protocol.trial_dir import AttemptDir, TrialDir
from tests.trainers.tiny_trial import (
    DEADLINE_S,
    READS_PER_EPOCH,
    ROOT,
    Run,
    held_ranks,
    open_attempt,
    processes_of,
    tiny_spec,
)
from tests.waiting import wait_until

# What the ranks and their environment are.

REQUEST = AttemptRequest(Path("trials/0007"), 3, RankLayout(nodes=2, ranks_per_node=4, cpus_per_rank=6), "srun")


def test_the_ranks_are_told_their_trial_their_attempt_and_their_threads():
    assert rank_command(REQUEST)[-6:] == (
        sys.executable, "-m", "trainers", "trials/0007", "--attempt=3", "--threads=6",
    )  # fmt: skip


def test_a_sites_options_reach_the_launcher():
    request = dataclasses.replace(REQUEST, launcher_options=("--cpu-bind=none",))

    assert "--cpu-bind=none" in rank_command(request)


def test_the_environments_own_mpirun_comes_first():
    path = rank_environment(REQUEST, {"PATH": "/usr/bin"})["PATH"]

    assert path == f"{Path(sys.executable).parent}:/usr/bin"


def test_the_project_comes_before_whatever_is_on_the_python_path():
    assert rank_environment(REQUEST, {"PYTHONPATH": "/theirs"})["PYTHONPATH"] == f"{ROOT}:/theirs"
    assert rank_environment(REQUEST, {})["PYTHONPATH"] == str(ROOT)


def test_a_sites_environment_is_the_strongest():
    request = dataclasses.replace(REQUEST, environment={"OMP_NUM_THREADS": "1", "NCCL_DEBUG": "INFO"})

    environment = rank_environment(request, {"NCCL_DEBUG": "WARN", "HOME": "/h"})

    assert (environment["OMP_NUM_THREADS"], environment["NCCL_DEBUG"], environment["HOME"]) == ("1", "INFO", "/h")


# How an attempt ends, with a stand-in for mpirun.


@pytest.fixture
def request_with(tmp_path) -> Callable[..., AttemptRequest]:
    """An attempt whose mpirun is this Python program; it knows its `attempt`."""

    def request_with(program: str, **changes) -> AttemptRequest:
        trial_dir = tmp_path / "0007"
        number = TrialDir(trial_dir).new_attempt().number
        mpirun = tmp_path / "bin" / "mpirun"
        mpirun.parent.mkdir()
        mpirun.write_text(f"#!{sys.executable}\n{PREAMBLE.format(trial_dir=str(trial_dir))}{dedent(program)}")
        mpirun.chmod(0o755)
        request = AttemptRequest(
            trial_dir,
            number,
            RankLayout(nodes=1, ranks_per_node=2, cpus_per_rank=1),
            "mpirun",
            environment={"PATH": f"{mpirun.parent}:{os.environ['PATH']}"},
        )
        return dataclasses.replace(request, **changes)

    return request_with


PREAMBLE = """
import os, signal, sys
from pathlib import Path
from storage.protocol.records import Outcome, TrialResult
from storage.protocol.trial_dir import TrialDir
from tests.storage.protocol.example_records import METRICS, REPORT
from tests.waiting import wait_until
attempt = TrialDir(Path({trial_dir!r})).attempt(1)
"""

PAUSES_WHEN_ASKED = """
    def pause(number, frame):
        attempt.write_result(TrialResult(Outcome.PAUSED, 0))
        sys.exit(0)
    signal.signal(signal.SIGUSR1, pause)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    attempt.write_communicator(REPORT)
    while True:
        signal.pause()
"""


@pytest.mark.parametrize(
    ("exit_code", "kind"),
    [
        (0, EndKind.CRASHED),
        (1, EndKind.CRASHED),
        (2, EndKind.BAD_SPEC),
        (4, EndKind.SUPERSEDED),
        (5, EndKind.DISK_FULL),
        (14, EndKind.INTERRUPTED),
        (128 + signal.SIGABRT, EndKind.CRASHED),
        (128 + signal.SIGKILL, EndKind.INTERRUPTED),
        (128 + signal.SIGTERM, EndKind.INTERRUPTED),
    ],
)
def test_without_a_result_the_exit_code_tells_how_it_ended(request_with, exit_code, kind):
    end = run_alone(
        request_with(f"attempt.note_rank_began()\nprint('the last words', file=sys.stderr)\nsys.exit({exit_code})")
    )

    assert (end.kind, end.exit_code, end.result) == (kind, exit_code, None)
    assert end.log_tail == "the last words"


@pytest.mark.parametrize(("failed", "kind"), [(1, EndKind.CRASHED), (2, EndKind.BAD_SPEC), (5, EndKind.DISK_FULL)])
def test_a_rank_that_fails_by_itself_counts_more_than_those_that_miss_it(request_with, failed, kind):
    note = f"attempt.note_rank_began()\nattempt.note_rank_failed({failed})\nattempt.note_rank_failed(1)\n"

    end = run_alone(request_with(f"{note}sys.exit(14)"))

    assert (end.kind, end.exit_code) == (kind, failed)


def test_a_result_counts_more_than_the_exit_code(request_with):
    end = run_alone(request_with("attempt.write_result(TrialResult(Outcome.COMPLETED, 3))\nsys.exit(1)"))

    assert (end.kind, end.result) == (EndKind.ENDED, TrialResult(Outcome.COMPLETED, 3))
    assert end.log_tail == ""


def test_a_launcher_that_starts_no_rank_is_no_crash_of_the_trial(request_with):
    end = run_alone(request_with("print('there are not enough slots', file=sys.stderr)\nsys.exit(1)"))

    assert end.kind is EndKind.NOT_LAUNCHED
    assert end.log_tail == "there are not enough slots"


def test_a_launcher_that_is_not_installed_launches_nothing_and_its_name_is_in_the_log(request_with):
    request = request_with("")

    end = run_alone(dataclasses.replace(request, environment={"PATH": "/nowhere"}))

    assert end.kind is EndKind.NOT_LAUNCHED
    assert "FileNotFoundError" in end.log_tail


def test_epochs_are_relayed_while_the_ranks_train_and_each_once(request_with):
    request = request_with("""
        attempt.append_metrics(METRICS)
        wait_until(lambda: (attempt.path / "relayed").exists(), 60)
        for _ in range(3):
            attempt.append_metrics(METRICS)
    """)
    relayed: list[EpochMetrics] = []

    def relay(metrics: EpochMetrics) -> None:
        relayed.append(metrics)
        (request.attempt.path / "relayed").touch()

    end = run_attempt(request, relay, lambda: None)

    assert len(relayed) == len(end.epochs) == 4


def test_a_driver_that_wants_to_prune_asks_for_it_at_the_epoch_boundary(request_with):
    request = request_with("""
        attempt.write_communicator(REPORT)
        stop = wait_until(attempt.requested_stop, 60)
        attempt.write_result(TrialResult(stop, 5))
    """)

    end = run_alone(request, Outcome.PRUNED)

    assert (end.kind, end.result) == (EndKind.ENDED, TrialResult(Outcome.PRUNED, 5))


def test_a_driver_that_wants_to_pause_gives_the_ranks_the_time_to_save(request_with):
    request = request_with(PAUSES_WHEN_ASKED)

    end = run_alone(request, lambda: Outcome.PAUSED if request.attempt.read_communicator() else None)

    assert (end.kind, end.result) == (EndKind.ENDED, TrialResult(Outcome.PAUSED, 0))


def test_an_allocation_that_ends_soon_pauses_the_trial(request_with):
    request = request_with(PAUSES_WHEN_ASKED, grace_s=60)

    # Blocked in all that is started here, so that it waits until the stand-in listens.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    end = run_alone(dataclasses.replace(request, deadline_unix_s=time.time() + 60))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert (end.kind, end.result) == (EndKind.ENDED, TrialResult(Outcome.PAUSED, 0))


def test_ranks_that_do_not_pause_are_killed_and_count_as_interrupted(request_with):
    request = request_with(
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\nattempt.write_communicator(REPORT)\nsignal.pause()", grace_s=0.5
    )

    end = run_alone(request, lambda: Outcome.PAUSED if request.attempt.read_communicator() else None)

    assert (end.kind, end.exit_code) == (EndKind.INTERRUPTED, 128 + signal.SIGTERM)
    assert processes_of(request.trial_dir) == []


def test_ranks_that_never_meet_are_sent_away(request_with):
    end = run_alone(request_with("signal.pause()", ranks_meet_within_s=0.1))

    assert end.kind is EndKind.INTERRUPTED


def test_a_runner_that_fails_takes_its_ranks_along(request_with):
    request = request_with("attempt.append_metrics(METRICS)\nsignal.pause()")

    def relay(metrics: EpochMetrics) -> None:
        raise ConnectionError("the driver is gone")

    with pytest.raises(ConnectionError, match="the driver is gone"):
        run_attempt(request, relay, lambda: None)

    assert processes_of(request.trial_dir) == []


def run_alone(request: AttemptRequest, wanted: Outcome | Callable[[], Outcome | None] | None = None) -> AttemptEnd:
    return run_attempt(request, lambda metrics: None, wanted if callable(wanted) else lambda: wanted)


# With ranks that train.

with_ranks = pytest.mark.timeout(3 * DEADLINE_S)


class LostRunner(NamedTuple):
    attempt: AttemptDir
    listening_here: set[str]
    """Sockets of the trial that listen on this machine's network."""
    listening_there: set[str]
    """Sockets that listen on the network of the trial's ranks."""


@pytest.fixture(scope="module")
def lost_runner(tmp_path_factory) -> LostRunner:
    """A runner that is killed while its ranks are in the middle of epoch 1."""
    folder = tmp_path_factory.mktemp("lost_runner")
    request = open_attempt(folder / "trial", tiny_spec(), hold_at_read=READS_PER_EPOCH + 4, grace_s=120)
    (folder / "request").write_bytes(pickle.dumps(request))
    program = Path(__file__).parent / "programs" / "runner.py"
    runner = subprocess.Popen(
        (sys.executable, program, folder / "request"), env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    ranks = held_ranks(request)
    sockets = {socket for process in processes_of(request.trial_dir) for socket in sockets_of(process)}
    listening_here, listening_there = listening("self"), listening(ranks[0])

    runner.kill()
    runner.wait()
    wait_until(lambda: not processes_of(request.trial_dir), DEADLINE_S)
    return LostRunner(request.attempt, sockets & listening_here, sockets & listening_there)


@with_ranks
def test_ranks_whose_runner_is_killed_save_and_go(lost_runner):
    result = lost_runner.attempt.read_result()

    assert (result.outcome, result.epochs_done) == (Outcome.PAUSED, 1)
    with np.load(lost_runner.attempt.trial.checkpoint_path) as checkpoint:
        assert 1 <= json.loads(str(checkpoint["progress"]))["loader_batches"] <= 4


@with_ranks
@pytest.mark.skipif(not private_network.is_available(), reason="this kernel gives this user no network namespaces")
def test_nothing_of_a_trial_listens_on_this_machines_network(lost_runner):
    assert lost_runner.listening_here == set()
    # It does listen, so the line above has something to find.
    assert lost_runner.listening_there


@with_ranks
def test_a_rank_that_fails_alone_ends_the_attempt_and_leaves_its_traceback(tmp_path):
    request = open_attempt(tmp_path / "trial", tiny_spec())
    # Rank 0 cannot read it, and rank 1 waits to be told what it says.
    request.attempt.trial.checkpoint_path.mkdir()

    end = Run(request).end()

    assert (end.kind, end.exit_code) == (EndKind.CRASHED, 1)
    assert "Traceback (most recent call last)" in end.log_tail
    assert "IsADirectoryError" in end.log_tail
    assert processes_of(request.trial_dir) == []


def sockets_of(process: psutil.Process) -> set[str]:
    """Inodes of the sockets that a process has open."""
    links = set()
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            links.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}


def listening(process: int | str) -> set[str]:
    """Inodes of all sockets that listen on the network that a process is in."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{process}/net/{name}").read_text().splitlines()
    ]
    return {fields[9] for fields in lines if fields[3] == "0A"}
