"""The runner: with stand-ins for the launcher in the first half, with ranks that train in the second."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from cluster import private_network
from cluster.attempt import (
    AttemptWatch,
    StopSignal,
    may_share_ranks,
    rank_command,
    rank_environment,
    run_attempt,
    trainer_environment,
)
from cluster.diagnosis import OomKills
from storage.protocol.attempts import AttemptEnd, AttemptRequest, Failure, RankLayout
from storage.protocol.exit_codes import ExitCode
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

REQUEST = AttemptRequest(Path("trials/0007"), 7, 3, RankLayout(nodes=2, ranks_per_node=4, cpus_per_rank=6), "srun")


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


def test_a_persons_own_packages_come_after_the_project_and_before_what_is_on_the_python_path():
    request = dataclasses.replace(REQUEST, code_folders=(Path("/home/ada/study"),), environment={"PYTHONPATH": "/site"})

    environment = rank_environment(request, {"PYTHONPATH": "/job"})

    assert environment["PYTHONPATH"] == f"{ROOT}:/home/ada/study:/site"
    assert (
        trainer_environment({"PYTHONPATH": "/theirs"}, request.code_folders)["PYTHONPATH"] == f"{ROOT}:/home/ada/study"
    )


def test_python_finds_the_project_where_the_current_folder_holds_packages_of_the_same_name(tmp_path):
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage/__init__.py").write_text("raise RuntimeError('this is not the project')")
    command = (sys.executable, "-m", "storage.protocol.variables")

    done = subprocess.run(command, cwd=tmp_path, env=rank_environment(REQUEST, os.environ), capture_output=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"ranks_stay": False},
        {"environment": {"NCCL_DEBUG": "INFO"}},
        {"code_folders": (Path("/home/ada/study"),)},
        {"code_sha256": "another"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_ranks_that_stay_are_not_sent_to_an_attempt_for_which_others_would_have_been_started(change):
    stays = dataclasses.replace(REQUEST, ranks_stay=True)

    assert may_share_ranks(stays, dataclasses.replace(stays, trial_number=9, attempt_number=4, time_left_s=5.0))
    assert not may_share_ranks(stays, dataclasses.replace(stays, **change))


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
            7,
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
    ("exit_code", "failure"),
    [
        (0, Failure.CRASHED),
        (1, Failure.CRASHED),
        (2, Failure.BAD_SPEC),
        (3, Failure.UNUSABLE_ALLOCATION),
        (4, Failure.SUPERSEDED),
        (5, Failure.DISK_FULL),
        (6, Failure.BAD_CHECKPOINT),
        (7, Failure.OUT_OF_MEMORY),
        (14, Failure.INTERRUPTED),
        (128 + signal.SIGABRT, Failure.CRASHED),
        (128 + signal.SIGKILL, Failure.INTERRUPTED),
        (128 + signal.SIGTERM, Failure.INTERRUPTED),
    ],
)
def test_without_a_result_the_exit_code_tells_how_it_ended(request_with, exit_code, failure):
    end = run_alone(
        request_with(f"attempt.record_rank_began()\nprint('the last words', file=sys.stderr)\nsys.exit({exit_code})")
    )

    assert (end.failure, end.exit_code, end.result) == (failure, exit_code, None)
    assert end.log_tail == "the last words"
    # Of ranks that were interrupted, the last line only tells how far they were.
    assert end.reason.startswith("the last words (") == (failure is not Failure.INTERRUPTED)


@pytest.mark.parametrize(
    ("code", "failure"), [(1, Failure.CRASHED), (2, Failure.BAD_SPEC), (3, Failure.UNUSABLE_ALLOCATION)]
)
def test_a_rank_that_fails_by_itself_counts_more_than_those_that_miss_it(request_with, code, failure):
    note = f"attempt.record_rank_began()\nattempt.record_rank_failure({code}, 'width=0')\n"

    end = run_alone(request_with(f"{note}attempt.record_rank_failure(1, 'later')\nsys.exit(14)"))

    assert (end.failure, end.reason, end.exit_code) == (failure, f"width=0 (exit code {code})", 14)


def test_a_result_counts_more_than_the_exit_code(request_with):
    end = run_alone(request_with("attempt.write_result(TrialResult(Outcome.COMPLETED, 3))\nsys.exit(1)"))

    assert (end.failure, end.result) == (None, TrialResult(Outcome.COMPLETED, 3))
    assert end.log_tail == ""


def test_the_end_is_written_down_for_a_driver_to_come(request_with):
    request = request_with("attempt.record_rank_began()\nprint('error: width=0')\nsys.exit(2)")

    end = run_alone(request)

    record = attempt_of(request).read_end_record()
    assert (record.failure, record.reason, record.exit_code) == (end.failure, end.reason, 2)
    assert record.wall_s == end.wall_s > 0
    assert attempt_of(request).read_exit().exit_code == 2


def test_a_launcher_that_starts_no_rank_is_no_crash_of_the_trial(request_with):
    end = run_alone(request_with("print('there are not enough slots', file=sys.stderr)\nsys.exit(1)"))

    assert end.failure is Failure.NOT_LAUNCHED
    assert end.reason == "there are not enough slots (exit code 1)"


def test_a_launcher_that_is_not_installed_launches_nothing_and_its_name_is_in_the_log(request_with):
    request = request_with("")

    end = run_alone(dataclasses.replace(request, environment={"PATH": "/nowhere"}))

    assert end.failure is Failure.NOT_LAUNCHED
    assert "FileNotFoundError" in end.log_tail


def test_ranks_that_the_kernel_killed_because_memory_ran_out_are_said_to_be(request_with, tmp_path, monkeypatch):
    counters = iter([OomKills(3, 3), OomKills(4, 4)])
    monkeypatch.setattr("cluster.diagnosis.count_oom_kills", lambda: next(counters))

    end = run_alone(request_with("attempt.record_rank_began()\nos.kill(os.getpid(), signal.SIGKILL)"))

    assert end.failure is Failure.OUT_OF_MEMORY
    assert end.reason == "the kernel killed a process of this job because memory ran out (ended by SIGKILL)"


def test_a_killed_rank_is_not_taken_for_one_that_ran_out_of_memory(request_with):
    end = run_alone(request_with("attempt.record_rank_began()\nos.kill(os.getpid(), signal.SIGKILL)"))

    assert (end.failure, end.reason) == (Failure.INTERRUPTED, "ended by SIGKILL")


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
        (attempt_of(request).path / "relayed").touch()

    end = run_attempt(request, relay, StopSignal())

    assert len(relayed) == len(end.epochs) == 4


def test_a_line_that_is_no_epoch_costs_neither_the_others_nor_the_end(request_with):
    end = run_alone(
        request_with("""
        attempt.append_metrics(METRICS)
        with (attempt.path / "metrics.jsonl").open("a") as file:
            file.write("{half a line")
        attempt.append_metrics(METRICS)
        attempt.write_result(TrialResult(Outcome.COMPLETED, 2))
    """)
    )

    assert (end.result, len(end.epochs)) == (TrialResult(Outcome.COMPLETED, 2), 2)


@pytest.mark.parametrize("outcome", [Outcome.PRUNED, Outcome.HELD])
def test_a_driver_that_wants_to_prune_or_to_hold_asks_for_it_at_the_epoch_boundary(request_with, outcome):
    request = request_with("""
        attempt.write_communicator(REPORT)
        stop = wait_until(attempt.requested_stop, 60)
        attempt.write_result(TrialResult(stop, 5))
    """)

    end = run_alone(request, outcome)

    assert (end.failure, end.result) == (None, TrialResult(outcome, 5))


def test_a_driver_that_wants_to_pause_gives_the_ranks_the_time_to_save(request_with):
    request = request_with(PAUSES_WHEN_ASKED)

    end = run_and_ask(request, Outcome.PAUSED, when=lambda: attempt_of(request).read_communicator())

    assert (end.failure, end.result) == (None, TrialResult(Outcome.PAUSED, 0))


def test_an_allocation_that_ends_soon_pauses_the_trial(request_with):
    request = request_with(PAUSES_WHEN_ASKED, grace_s=60)

    # Blocked in all that is started here, so that it waits until the stand-in listens.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    end = run_alone(dataclasses.replace(request, time_left_s=60))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert (end.failure, end.result) == (None, TrialResult(Outcome.PAUSED, 0))


def test_ranks_that_do_not_pause_are_killed_and_count_as_interrupted_and_it_says_why(request_with):
    request = request_with(
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\nattempt.write_communicator(REPORT)\nsignal.pause()", grace_s=0.5
    )

    end = run_and_ask(request, Outcome.PAUSED, when=lambda: attempt_of(request).read_communicator())

    assert (end.failure, end.exit_code) == (Failure.INTERRUPTED, 128 + signal.SIGTERM)
    assert end.reason == "the driver asked for it (ended by SIGTERM)"
    assert processes_of(request.trial_dir) == []


def test_ranks_that_never_meet_are_terminated_and_it_says_so(request_with):
    end = run_alone(request_with("signal.pause()", rendezvous_timeout_s=0.1))

    assert end.failure is Failure.INTERRUPTED
    assert end.reason.startswith("the ranks have not found one another within 0.1 s")


def test_ranks_that_show_no_sign_of_life_are_terminated_and_it_says_so(request_with):
    end = run_alone(request_with("attempt.write_communicator(REPORT)\nsignal.pause()", heartbeat_timeout_s=0.5))

    assert end.failure is Failure.INTERRUPTED
    assert end.reason.startswith("the ranks have shown no sign of life for 0.5 s")


def test_ranks_of_an_attempt_that_has_a_successor_are_ended_without_being_asked(request_with):
    request = request_with(
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\nattempt.trial.new_attempt()\nsignal.pause()", grace_s=600
    )

    end = run_alone(request)

    assert (end.failure, end.exit_code) == (Failure.SUPERSEDED, ExitCode.SUPERSEDED)
    assert processes_of(request.trial_dir) == []


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Failure.DISK_FULL),
        (KeyError("a bug"), Failure.CRASHED),
    ],
)
def test_a_runner_that_fails_tells_an_end_and_takes_its_ranks_along(request_with, error, failure):
    request = request_with("attempt.append_metrics(METRICS)\nsignal.pause()")

    def relay(metrics: EpochMetrics) -> None:
        raise error

    end = run_attempt(request, relay, StopSignal())

    assert end.failure is failure
    assert end.reason.startswith(f"the runner failed: {type(error).__name__}: ")
    assert processes_of(request.trial_dir) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(errno.EIO, "Input/output error"),
        ConnectionError("the driver is gone"),
        TimeoutError("Timed out trying to connect to tls://"),
    ],
)
def test_an_error_that_passes_while_the_ranks_train_ends_nothing(request_with, error):
    request = request_with("attempt.append_metrics(METRICS)\nattempt.write_result(TrialResult(Outcome.COMPLETED, 1))")

    def relay(metrics: EpochMetrics) -> None:
        raise error

    assert run_attempt(request, relay, StopSignal()).result == TrialResult(Outcome.COMPLETED, 1)


def test_an_error_that_passes_before_the_ranks_were_started_is_an_interruption(request_with, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(subprocess, "Popen", fail)

    end = run_alone(request_with(""))

    assert (end.failure, end.exit_code) == (Failure.INTERRUPTED, None)
    assert end.reason == "the runner failed: OSError: [Errno 116] Stale file handle"


def test_an_attempt_whose_folder_is_away_ends_all_the_same(tmp_path):
    request = AttemptRequest(tmp_path / "gone", 7, 1, RankLayout(1, 1, 1), "mpirun")

    end = run_alone(request)

    assert end.failure is Failure.CRASHED
    assert "FileNotFoundError" in end.reason


# What decides that an attempt has to end: no clock, no file, no network.

WATCHED = dataclasses.replace(
    REQUEST, time_left_s=1000.0, grace_s=100.0, rendezvous_timeout_s=50.0, heartbeat_timeout_s=200.0
)


def test_an_attempt_that_gets_on_goes_on():
    watch = AttemptWatch(WATCHED, started_s=5.0)

    verdicts = {watch.verdict(5.0 + s, None, has_met=s > 40, heartbeat=s // 10)[0] for s in range(900)}

    assert verdicts == {None}


def test_an_attempt_pauses_before_its_allocation_ends_whatever_it_is_asked():
    watch = AttemptWatch(WATCHED, started_s=5.0)

    assert watch.verdict(904.9, Outcome.PRUNED, has_met=True, heartbeat=1.0)[0] is Outcome.PRUNED
    assert watch.verdict(905.0, Outcome.PRUNED, has_met=True, heartbeat=2.0)[0] is Outcome.PAUSED


def test_a_stronger_request_is_not_taken_back_by_a_weaker_one():
    stop = StopSignal()

    stop.request(Outcome.PRUNED)
    stop.request(Outcome.PAUSED)
    stop.request(Outcome.PRUNED)

    assert stop.requested is Outcome.PAUSED


def run_alone(request: AttemptRequest, wanted: Outcome | None = None) -> AttemptEnd:
    stop = StopSignal()
    if wanted is not None:
        stop.request(wanted)
    return run_attempt(request, lambda metrics: None, stop)


def run_and_ask(request: AttemptRequest, wanted: Outcome, when: Callable[[], object]) -> AttemptEnd:
    """Run an attempt, and ask it to end when something is so."""
    stop = StopSignal()
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(run_attempt, request, lambda metrics: None, stop)
        wait_until(when, DEADLINE_S)
        stop.request(wanted)
        return end.result(DEADLINE_S)


def attempt_of(request: AttemptRequest) -> AttemptDir:
    return TrialDir(request.trial_dir).attempt(request.attempt_number)


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
    return LostRunner(attempt_of(request), sockets & listening_here, sockets & listening_there)


@with_ranks
def test_ranks_whose_runner_is_killed_save_and_go(lost_runner):
    result = lost_runner.attempt.read_result()

    assert (result.outcome, result.epochs_done) == (Outcome.PAUSED, 1)
    with np.load(lost_runner.attempt.checkpoint_path) as checkpoint:
        assert 1 <= json.loads(str(checkpoint["progress"]))["loader_batches"] <= 4


@with_ranks
@pytest.mark.skipif(not private_network.is_available(), reason="this kernel gives this user no network namespaces")
def test_nothing_of_a_trial_listens_on_this_machines_network(lost_runner):
    assert lost_runner.listening_here == set()
    # It does listen, so the line above has something to find.
    assert lost_runner.listening_there


@with_ranks
def test_a_rank_that_fails_alone_ends_the_attempt_and_leaves_its_traceback_and_its_words(tmp_path):
    request = open_attempt(tmp_path / "trial", tiny_spec())
    # Rank 0 cannot write it, and rank 1 waits for it in a collective.
    attempt_of(request).checkpoint_path.mkdir()

    end = Run(request).end()

    assert (end.failure, end.exit_code) == (Failure.UNUSABLE_ALLOCATION, 3)
    assert "Traceback (most recent call last)" in end.log_tail
    assert end.reason.startswith("IsADirectoryError: ")
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
