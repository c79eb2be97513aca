"""Why ranks ended, in words."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cluster.diagnosis import OomKills, cause, count_oom_kills, describe_exit, error_in, failure_of
from storage.protocol.attempts import Failure
from storage.protocol.exit_codes import ExitCode


@pytest.mark.parametrize(
    ("log_tail", "line"),
    [
        ("loading\nerror: width=0 is too small\nbye", "width=0 is too small"),
        ("Traceback\n  File x\nValueError: 3 is no shape", "ValueError: 3 is no shape"),
        ("a\ntensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM", None),
        ("------\nThere are not enough slots\n------", "There are not enough slots"),
        ("Killed", "Killed"),
        ("", ""),
        ("\n \n", ""),
    ],
)
def test_the_line_that_a_person_should_read_first(log_tail, line):
    assert cause(log_tail) == (line if line is not None else log_tail.splitlines()[-1])


def test_our_own_words_come_before_a_traceback_of_python():
    assert cause("error: the real reason\nKeyError: 'x'") == "the real reason"


def test_how_far_ranks_were_is_no_error():
    assert error_in("rank 0 of 2\nepoch 3/9: batch 32, loss 0.3647") == ""
    assert error_in("epoch 3/9: batch 32, loss 0.3647\nerror: no space") == "no space"


def test_a_rank_that_failed_says_by_its_code_whose_fault_it_was():
    assert failure_of(ExitCode.BAD_SPEC, has_begun=True) is Failure.BAD_SPEC
    assert failure_of(ExitCode.UNUSABLE_ALLOCATION, has_begun=True) is Failure.UNUSABLE_ALLOCATION
    assert failure_of(1, has_begun=True) is Failure.CRASHED
    assert failure_of(1, has_begun=False) is Failure.NOT_LAUNCHED


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "exit code 1"), (137, "ended by SIGKILL"), (139, "ended by SIGSEGV"), (255, "exit code 255")],
)
def test_an_exit_code_in_words(code, words):
    assert describe_exit(code) == words
    assert 128 + signal.SIGKILL == 137


@pytest.fixture
def kernel(tmp_path: Path):
    """A /proc and a /sys/fs/cgroup, to be filled."""

    def fill(cgroup: str, files: dict[str, str], vmstat: str = "pgfault 1\noom_kill 5\n") -> OomKills:
        proc, groups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True, exist_ok=True)
        (proc / "self" / "cgroup").write_text(cgroup)
        (proc / "vmstat").write_text(vmstat)
        for name, content in files.items():
            (groups / name).parent.mkdir(parents=True, exist_ok=True)
            (groups / name).write_text(content)
        return count_oom_kills(proc, groups)

    return fill


def test_kills_are_counted_in_the_control_group_and_those_around_it(kernel):
    # The ranks' step lies beside the batch script's, and the job's group counts both.
    found = kernel(
        "0::/slurm/job_7/step_batch\n",
        {"slurm/job_7/step_batch/memory.events": "oom 0\noom_kill 0\n", "slurm/job_7/memory.events": "oom_kill 2\n"},
    )

    assert found == OomKills(of_this_job=2, of_this_machine=5)


def test_the_older_version_of_control_groups_counts_too(kernel):
    found = kernel(
        "4:memory:/slurm/job_7\n3:cpu:/\n0::/\n",
        {"memory/slurm/job_7/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"},
    )

    assert found == OomKills(of_this_job=3, of_this_machine=5)


def test_a_kernel_that_does_not_count_says_nothing(kernel):
    found = kernel("0::/\n", {}, vmstat="pgfault 1\n")

    assert found == OomKills(None, None)
    assert found.reason_since(found) == ""


def test_this_kernel_can_be_asked():
    assert count_oom_kills().reason_since(count_oom_kills()) == ""


def test_what_happened_in_the_job_is_said_before_what_happened_on_the_machine():
    before = OomKills(1, 1)

    assert OomKills(2, 2).reason_since(before) == "the kernel killed a process of this job because memory ran out"
    assert OomKills(1, 2).reason_since(before) == "the kernel killed a process on this machine because memory ran out"
    assert OomKills(None, 2).reason_since(before).endswith("on this machine because memory ran out")
    assert OomKills(1, 1).reason_since(before) == ""
