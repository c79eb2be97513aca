"""What every launcher keeps. The commands of the sites are pinned in tests/cluster/golden."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cluster.attempt import rank_environment
from cluster.launchers import LAUNCHERS, LauncherError, launcher
from storage.protocol.attempts import AttemptRequest, LayoutError, RankLayout

PROGRAM = ("python", "-m", "trainers", "a trial with spaces")
LAYOUT = RankLayout(nodes=4, ranks_per_node=3, cpus_per_rank=5, gpus_per_node=3)

every_launcher = pytest.mark.parametrize("name", LAUNCHERS)


@every_launcher
def test_the_program_comes_last_and_as_it_is(name):
    assert launcher(name).argv(LAYOUT, PROGRAM)[-len(PROGRAM) :] == PROGRAM


@every_launcher
def test_a_sites_options_come_after_the_launchers_own_and_before_the_program(name):
    plain = launcher(name).argv(LAYOUT, PROGRAM)

    with_options = launcher(name).argv(LAYOUT, PROGRAM, ("--verbose", "--x=1"))

    assert with_options == (*plain[: -len(PROGRAM)], "--verbose", "--x=1", *PROGRAM)


def test_mpirun_on_several_nodes():
    assert launcher("mpirun").argv(LAYOUT, ("true",)) == (
        "mpirun", "-np", "12", "--map-by", "ppr:3:node:OVERSUBSCRIBE", "--bind-to", "none", "true",
    )  # fmt: skip


def test_mpirun_on_one_node_uses_shared_memory_in_a_private_network():
    argv = launcher("mpirun").argv(RankLayout(nodes=1, ranks_per_node=2, cpus_per_rank=1), ("true",))

    assert argv[1:] == (
        "-m", "cluster.private_network", "mpirun", "-np", "2", "--map-by", "ppr:2:node:OVERSUBSCRIBE",
        "--bind-to", "none", "--mca", "btl", "self,sm", "true",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "own"),
    [
        (("--mca", "btl", "self,tcp"), ("--mca", "btl", "self,sm")),
        (("--bind-to", "core"), ("--bind-to", "none")),
        (("--map-by", "slot:OVERSUBSCRIBE"), ("--map-by", "ppr:2:node:OVERSUBSCRIBE")),
    ],
)
def test_mpirun_takes_a_site_s_option_instead_of_its_own_one(options, own):
    layout = RankLayout(nodes=1, ranks_per_node=2, cpus_per_rank=1)
    plain = launcher("mpirun").argv(layout, ("true",))

    argv = launcher("mpirun").argv(layout, ("true",), options)

    without = " ".join(plain[:-1]).replace(" ".join(own), "").split()
    assert argv == (*without, *options, "true")
    # The real one, which refuses an option that is there twice.
    environment = rank_environment(AttemptRequest(Path(), 0, 1, layout, "mpirun"), os.environ)
    subprocess.run(argv, env=environment, check=True, timeout=60)


def test_srun():
    assert launcher("srun").argv(LAYOUT, ("true",)) == (
        "srun", "--nodes=4", "--ntasks=12", "--ntasks-per-node=3", "--cpus-per-task=5", "--gres=gpu:3", "--mpi=pmix",
        "--kill-on-bad-exit=1", "--export=ALL", "true",
    )  # fmt: skip


def test_srun_asks_for_no_gpus_where_there_are_none():
    layout = RankLayout(nodes=4, ranks_per_node=3, cpus_per_rank=5)

    assert not [word for word in launcher("srun").argv(layout, ("true",)) if "gpu" in word]


def test_an_unknown_launcher_is_answered_with_the_known_ones():
    with pytest.raises(LauncherError, match="launcher='mpiexec'; it must be one of mpirun, srun"):
        launcher("mpiexec")


@pytest.mark.parametrize("name", ["nodes", "ranks_per_node", "cpus_per_rank"])
def test_a_layout_without_anything_is_refused(name):
    with pytest.raises(LayoutError, match=f"{name}=0; a trial needs at least 1"):
        RankLayout(**{"nodes": 1, "ranks_per_node": 1, "cpus_per_rank": 1} | {name: 0})


@every_launcher
def test_it_says_why_it_could_not_start_ranks(name):
    assert launcher(name).explain("loading\n-----\nThere are not enough slots\n-----") == "There are not enough slots"
    assert launcher(name).explain("") == ""


@every_launcher
def test_it_prepares_in_a_limited_time_where_there_is_nothing_to_wait_for(name, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    launcher(name).prepare()


def test_slurm_s_own_words_come_before_others():
    log = "srun: error: node3: task 0: Exited with exit code 1\nsomething else"

    assert launcher("srun").explain(log) == "node3: task 0: Exited with exit code 1"
