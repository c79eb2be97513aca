"""One driver per study: two real processes want the same lease."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.database.lease import LeaseError, hold_lease
from tests.architecture.sources import REPOSITORY

HOLD_UNTIL_TOLD = """
import sys
from pathlib import Path
from storage.database.lease import hold_lease
with hold_lease(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process_holding(study_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease until its input ends."""
    command = [sys.executable, "-c", HOLD_UNTIL_TOLD, str(study_dir)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_process_is_refused_and_told_who_the_first_one_is(tmp_path):
    with other_process_holding(tmp_path) as first, pytest.raises(LeaseError) as refused, hold_lease(tmp_path):
        pass

    assert f"process {first.pid} on {socket.gethostname()}" in str(refused.value)


def test_a_refused_process_leaves_the_lease_as_it_is(tmp_path):
    with other_process_holding(tmp_path):
        for _ in range(2):
            with pytest.raises(LeaseError, match="process"), hold_lease(tmp_path):
                pass


def test_the_lease_is_free_when_its_holder_has_ended(tmp_path):
    with other_process_holding(tmp_path):
        pass

    with hold_lease(tmp_path):
        pass


def test_the_lease_is_free_when_its_holder_was_killed(tmp_path):
    with other_process_holding(tmp_path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()

        with hold_lease(tmp_path):
            assert str(os.getpid()) in (tmp_path / "driver.holder").read_text()


def test_the_lease_is_free_when_its_block_has_failed(tmp_path):
    with pytest.raises(ZeroDivisionError), hold_lease(tmp_path):
        raise ZeroDivisionError

    with other_process_holding(tmp_path):
        pass


def test_children_of_a_killed_holder_do_not_keep_the_lease(tmp_path):
    with_child = HOLD_UNTIL_TOLD.replace(
        '    print("held"',
        '    import subprocess\n    print(subprocess.Popen(["sleep", "600"]).pid)\n    print("held"',
    )
    command = [sys.executable, "-c", with_child, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        try:
            with hold_lease(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_different_studies_have_different_leases(tmp_path):
    with other_process_holding(tmp_path / "a"), hold_lease(tmp_path / "b"):
        pass
