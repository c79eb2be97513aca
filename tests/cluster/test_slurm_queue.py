"""What Slurm's commands print, read without Slurm."""

from __future__ import annotations

import math

import pytest
from cluster.slurm_queue import own_words, parse_duration_s, parse_queue, slurm_lines

NOW_S = 1_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:59", 59),
        ("12:00", 720),
        ("1:00:00", 3600),
        ("2-03:04:05", 183_845),
        ("UNLIMITED", math.inf),
        ("NOT_SET", math.inf),
        ("INVALID", math.inf),
    ],
)
def test_a_duration_is_read_as_slurm_writes_it(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


def test_a_queue_is_read_with_what_each_job_waits_for_and_when_it_ends() -> None:
    running, pending, ending = parse_queue(
        "7|RUNNING|4|1:00:00|None|/runs/a|b\n"
        "8|PENDING|4|UNLIMITED|Nodes required for job are DOWN|/runs/c\n"
        "9|COMPLETING|4|0:00|None|/runs/c\n",
        NOW_S,
    )

    assert (running.job_id, running.nodes, running.end_unix_s, running.folder) == ("7", 4, NOW_S + 3600, "/runs/a|b")
    assert (running.is_running, pending.is_running) == (True, False)
    assert (running.is_alive, pending.is_alive, ending.is_alive) == (True, True, False)
    assert (pending.end_unix_s, pending.reason) == (math.inf, "Nodes required for job are DOWN")


def test_slurm_s_words_are_found_among_others_and_each_is_said_once() -> None:
    text = "Traceback\nsbatch: error: Invalid qos\nsbatch: error: Invalid qos\nsrun: fatal: no node\nbye"

    assert slurm_lines(text) == "Invalid qos; no node"
    assert own_words(text) == "Invalid qos; no node"
    assert own_words("some  other\nprogram") == "some other program"
