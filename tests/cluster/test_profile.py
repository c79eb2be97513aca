"""A site's profile: what it lays out on a machine, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.profile import SiteError, SiteProfile, load_site


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "here.toml"
    path.write_text('launcher = "mpirun"\nranks_per_node = 2\nmax_concurrent_trials = 2\n')
    return path


@pytest.mark.parametrize(
    ("cores", "trials", "cpus_per_rank"),
    [(1, 1, 1), (2, 1, 1), (4, 2, 1), (7, 2, 1), (8, 2, 2), (64, 2, 16)],
)
def test_a_machine_s_cores_are_divided_among_the_ranks_of_as_many_trials_as_it_has_room_for(
    site: Path, cores: int, trials: int, cpus_per_rank: int
) -> None:
    profile = load_site(str(site))

    assert profile.concurrent_trials(cores) == trials
    assert profile.layout(cores).cpus_per_rank == cpus_per_rank
    assert profile.layout(cores).world_size == 2


def test_on_slurm_the_cores_of_the_login_node_do_not_matter() -> None:
    profile = load_site("jureca-dc")

    assert [profile.concurrent_trials(cores) for cores in (1, 64)] == [6, 6]
    assert profile.layout(1) == profile.layout(64)
    assert (profile.layout(1).world_size, profile.layout(1).cpus_per_rank) == (16, 32)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("launcher=srun", r"launcher='srun' and nodes_per_trial above 1 need a \[slurm\] table"),
        ("nodes_per_trial=2", r"nodes_per_trial above 1 need a \[slurm\] table"),
        ("gpus_per_node=1", "ranks_per_node=2 is above gpus_per_node=1"),
        ('slurm={walltime="1:00:00", interface="lo"}', r"cpus_per_rank must be a number on a site with \[slurm\]"),
    ],
)
def test_values_that_contradict_one_another_are_refused(site: Path, override: str, said: str) -> None:
    with pytest.raises(SiteError, match=said):
        load_site(str(site), [override])


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("slurm.account=physics\n#SBATCH --exclusive", "slurm.account"),
        ('slurm.prologue=["module load GCC", "true\\nrm -rf x"]', "slurm.prologue[1]"),
        ('slurm.extra_directives=["--qos=x\\n"]', "slurm.extra_directives[0]"),
        ('launcher_options=["--mpi=\\r"]', "launcher_options[0]"),
        ("environment.NCCL_SOCKET_IFNAME=ib0\n1", "environment.NCCL_SOCKET_IFNAME"),
        ('environment={"A\\nB"="x"}', r"the key 'A\nB'"),
    ],
)
def test_a_control_character_would_be_a_line_of_the_job_script_and_is_refused(override: str, place: str) -> None:
    with pytest.raises(SiteError) as refused:
        load_site("sandbox", [override])

    assert place in str(refused.value)
    assert "contains the control character" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_profile_that_is_nested_beyond_reason_is_refused(site: Path) -> None:
    site.write_text(f"launcher = {'[' * 5000}{']' * 5000}")

    with pytest.raises(SiteError, match=r"here\.toml: its values are nested too deeply\."):
        load_site(str(site))


@pytest.mark.parametrize(("walltime", "seconds"), [("00:00:59", 59), ("24:00:00", 86_400), ("2-01:00:00", 176_400)])
def test_a_walltime_is_read_as_slurm_reads_it(walltime: str, seconds: int) -> None:
    profile = load_site("sandbox", [f"slurm.walltime='{walltime}'"])

    assert profile.slurm is not None
    assert profile.slurm.walltime_s == seconds


@pytest.mark.parametrize(("gpus", "asked", "required"), [(4, "auto", "nccl"), (0, "auto", "mpi"), (4, "gloo", "gloo")])
def test_gloo_is_used_only_where_a_site_says_so(gpus: int, asked: str, required: str) -> None:
    profile = SiteProfile(name="x", launcher="mpirun", ranks_per_node=4, gpus_per_node=gpus, required_backend=asked)  # type: ignore[arg-type]

    assert profile.backend == required
