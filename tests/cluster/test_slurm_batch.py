"""What Slurm's commands print, read without Slurm; and commands that misbehave, as scripts on the PATH."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from cluster.batch_system import BatchSystemError, JobState, SubmissionRefusedError
from cluster.slurm import batch
from cluster.slurm.batch import Slurm, parse_duration_s, parse_queue
from cluster.slurm.words import is_transient_refusal, own_words, slurm_lines

FOLDER = Path("/runs/a|b/jobs")


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
def test_a_duration_is_read_as_slurm_writes_it(text, seconds):
    assert parse_duration_s(text) == seconds


def test_a_queue_is_read_with_what_each_job_waits_for_and_the_time_that_it_has_left():
    running, pending, ending, ended = parse_queue(
        f"7|RUNNING|4|1:00:00|1-02:00:10|s-1|None|{FOLDER}\n"
        f"8|PENDING|4|UNLIMITED|INVALID|s-2|Nodes required for job are DOWN|{FOLDER}\n"
        f"9|COMPLETING|4|0:00|5:00|s-3|None|{FOLDER}\n"
        f"6|NODE_FAIL|4|0:00|0:07|s-0|NodeDown|{FOLDER}\n",
        "s-",
        FOLDER,
    )

    assert (running.job_id, running.name, running.nodes, running.time_left_s) == ("7", "s-1", 4, 3600)
    assert [job.used_s for job in (running, pending, ending, ended)] == [93_610, 0, 300, 7]
    states = [job.state for job in (running, pending, ending, ended)]
    assert states == [JobState.RUNNING, JobState.PENDING, JobState.ENDING, JobState.ENDED]
    assert pending.words == "PENDING (Nodes required for job are DOWN)"
    assert ended.words == "NODE_FAIL (NodeDown)"
    assert [job.state.is_alive for job in (running, pending, ending, ended)] == [True, True, False, False]


def test_jobs_of_other_studies_and_lines_that_are_not_jobs_are_passed_over():
    printed = (
        "squeue: warning: something\n"
        f"7|RUNNING|4|1:00:00|0:10|t-1|None|{FOLDER}\n"
        "8|RUNNING|4|1:00:00|0:10|s-1|None|/runs/elsewhere\n"
        f"9|RUNNING|many|1:00:00|0:10|s-2|None|{FOLDER}\n"
        f"10|RUNNING|4|1:00:00|0:10|s-3|None|{FOLDER}\n"
    )

    assert [job.job_id for job in parse_queue(printed, "s-", FOLDER)] == ["10"]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm whose commands are these shell scripts."""

    def slurm(**scripts: str) -> Slurm:
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        return Slurm(tmp_path, "s-", lambda name, nodes: f"#!/bin/sh\n# {name} {nodes}", dict(os.environ), None)

    return slurm


@pytest.mark.parametrize(
    "printed", ["123", "123;cluster_a", "Welcome to site 2026, queue 7\n123", "project 99 has 1000 hours left\n123;c"]
)
def test_the_id_of_a_job_is_what_sbatch_means_by_it(slurm, printed):
    assert slurm(sbatch=f"cat > /dev/null; printf '%b' '{printed}\\n'").submit("s-1", 2) == "123"


def test_an_answer_without_an_id_leaves_it_open_whether_the_job_was_taken(slurm):
    with pytest.raises(BatchSystemError, match="no job id in what it printed: 'ok'"):
        slurm(sbatch="echo ok").submit("s-1", 2)


def test_the_script_goes_to_sbatch_as_its_input(slurm, tmp_path):
    slurm(sbatch=f"cat > {tmp_path}/got; echo 1").submit("s-17", 2)

    assert (tmp_path / "got").read_text() == "#!/bin/sh\n# s-17 2"


@pytest.mark.parametrize(
    ("words", "is_transient"),
    [
        ("Batch job submission failed: Invalid account or account/partition combination specified", False),
        ("Batch job submission failed: Requested node configuration is not available", False),
        ("invalid partition specified: nowhere", False),
        ("Batch job submission failed: Socket timed out on send/recv operation", True),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size)", True),
        ("QOSMaxSubmitJobPerUserLimit", True),
        ("Batch job submission failed: Slurm temporarily unable to accept job, sleeping and retrying", True),
    ],
)
def test_what_passes_is_told_from_what_does_not(slurm, words, is_transient):
    assert is_transient_refusal(words) is is_transient
    with pytest.raises(SubmissionRefusedError) as refused:
        slurm(sbatch=f'echo "sbatch: error: {words}" >&2; exit 1').submit("s-1", 2)
    assert refused.value.is_transient is is_transient
    assert words in str(refused.value)


def test_a_command_that_hangs_is_given_up(slurm, monkeypatch):
    monkeypatch.setattr(batch, "_TIMEOUT_S", 0.2)

    with pytest.raises(BatchSystemError, match=r"squeue has not answered for 0\.2 s"):
        slurm(squeue="sleep 60").queue()


def test_a_machine_without_slurm_is_told_so(slurm, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(BatchSystemError, match="there is no command squeue"):
        Slurm(Path("/"), "s-", str, {}, None).queue()


def test_slurm_s_words_are_found_among_others_and_each_is_said_once():
    text = "Traceback\nsbatch: error: Invalid qos\nsbatch: error: Invalid qos\nsrun: fatal: no node\nbye"

    assert slurm_lines(text) == "Invalid qos; no node"
    assert own_words(text) == "Invalid qos; no node"
    assert own_words("some  other\nprogram") == "some other program"
