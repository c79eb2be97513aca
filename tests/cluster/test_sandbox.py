"""The sandbox against the machine's real Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.sandbox import CommandError, Isolation, Sandbox, SandboxError, SandboxLayoutError, SandboxShape
from cluster.sandbox.daemons import best_isolation
from cluster.sandbox.layout import SandboxLayout, Slot, gres_conf, hosts, slurm_conf
from cluster.sandbox.packages import missing_packages, with_sbin
from tests.cluster.installed_slurm import needs_slurm
from tests.needs_root import needs_root
from tests.waiting import wait_until

pytestmark = needs_slurm

REPOSITORY = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("golden")
NETWORK_DEVICES = Path("/sys/class/net")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Four nodes for tests that leave them as they were."""
    with Sandbox.start(SandboxShape(nodes=4)) as sandbox:
        yield sandbox


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that all users can enter, with a short path: pytest's own is too long for Unix sockets."""
    place = Path(tempfile.mkdtemp(prefix="sandbox-test-"))
    place.chmod(0o711)
    yield place
    for directory in place.glob("*/sandbox.json"):
        Sandbox.open(directory.parent).stop()
    shutil.rmtree(place)


def cli(
    *arguments: str | Path, python: str = sys.executable, before: tuple[str, ...] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m cluster.sandbox`, as a user does."""
    command = (*before, python, "-m", "cluster.sandbox", *map(str, arguments))
    return subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environ, capture_output=True, text=True, timeout=60, check=False
    )


def traces_of(directory: Path) -> list[str]:
    """What is left of a sandbox on this machine: processes, mounts in whatever namespace, files."""
    found = [str(directory)] if directory.exists() else []
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line]
    for process in psutil.process_iter():
        try:
            marks = [*process.cmdline(), *process.environ().values(), process.cwd()]
            marks += [file.path for file in process.open_files()]
            marks.append(Path(f"/proc/{process.pid}/mountinfo").read_text())
        except (psutil.Error, OSError):
            continue
        if process.pid != os.getpid() and any(str(directory) in mark for mark in marks):
            found.append(f"{process.pid} {process.name()}")
    return found


def batch_job(sandbox: Sandbox, script: str, *options: str) -> str:
    return sandbox.run("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", script).strip()


def layout(isolation: Isolation) -> SandboxLayout:
    shape = SandboxShape(nodes=2, gpus_per_node=4)
    return SandboxLayout("/sandbox", isolation, Slot(3), user="ada", controller_host="login", shape=shape)


@pytest.mark.parametrize("isolation", [Isolation.UTS, Isolation.NETWORK])
def test_slurm_conf_is_the_golden_one(isolation: Isolation) -> None:
    assert slurm_conf(layout(isolation)) == (GOLDEN / f"sandbox_{isolation}_slurm.conf").read_text()


def test_gres_conf_is_the_golden_one() -> None:
    assert gres_conf(layout(Isolation.UTS)) == (GOLDEN / "sandbox_gres.conf").read_text()


def test_nodes_find_one_another_and_what_the_machine_knows_in_their_hosts_file() -> None:
    text = hosts(layout(Isolation.NETWORK), "127.0.0.1 localhost\n")
    assert text == "127.0.0.1 localhost\n198.18.3.1 node1\n198.18.3.2 node2\n"


def test_all_nodes_are_idle_and_have_gpus(sandbox: Sandbox) -> None:
    assert sandbox.node_states() == dict.fromkeys(("node1", "node2", "node3", "node4"), "idle")
    assert sandbox.run("sinfo", "--noheader", "--partition=gpu", "--format=%D %G").split() == ["4", "gpu:4"]


def test_a_step_runs_16_tasks_on_4_hosts_that_see_all_gpus_of_their_node(sandbox: Sandbox) -> None:
    script = 'echo "$(hostname) $SLURM_LOCALID $CUDA_VISIBLE_DEVICES"'
    output = sandbox.run("srun", "--nodes=4", "--ntasks-per-node=4", "--gres=gpu:4", "sh", "-c", script)

    expected = [f"node{node} {local_rank} 0,1,2,3" for node in range(1, 5) for local_rank in range(4)]
    assert sorted(output.splitlines()) == expected


def test_tasks_that_are_each_given_one_gpu_take_another_one_each(sandbox: Sandbox) -> None:
    # As on a site whose Slurm deals the GPUs out among the tasks.
    program = (
        "import os, socket; from trainers.data_plane import own_gpu; "
        "visible = os.environ['CUDA_VISIBLE_DEVICES'].split(','); "
        "print(socket.gethostname(), len(visible), visible[own_gpu(int(os.environ['SLURM_LOCALID']), len(visible))])"
    )
    shape = ("--nodes=4", "--ntasks-per-node=4", "--gpus-per-task=1", "--gpu-bind=single:1")
    output = sandbox.run("srun", *shape, f"--chdir={REPOSITORY}", sys.executable, "-c", program)

    expected = [f"node{node} 1 {gpu}" for node in range(1, 5) for gpu in range(4)]
    assert sorted(output.splitlines()) == expected


def test_mpi_ranks_of_four_nodes_sum_up_their_numbers(sandbox: Sandbox) -> None:
    program = (
        "import socket; from mpi4py.MPI import COMM_WORLD as ranks; "
        "print(ranks.rank, ranks.allreduce(ranks.rank), socket.gethostname())"
    )
    output = sandbox.run("srun", "--mpi=pmix", "--nodes=4", "--ntasks-per-node=4", sys.executable, "-c", program)

    expected = {f"{rank} {sum(range(16))} node{rank // 4 + 1}" for rank in range(16)}
    assert set(output.splitlines()) == expected


def test_a_node_s_shared_memory_is_its_own(sandbox: Sandbox) -> None:
    # Open MPI's segments have the same names in every sandbox: ranks of two of them crashed each other.
    sandbox.run("srun", "--nodelist=node1", "touch", "/dev/shm/sandbox-test")

    assert sandbox.run("srun", "--nodelist=node1", "ls", "/dev/shm") == "sandbox-test\n"
    assert sandbox.run("srun", "--nodelist=node2", "ls", "/dev/shm") == ""
    assert not Path("/dev/shm/sandbox-test").exists()


def test_a_failing_command_is_quoted(sandbox: Sandbox) -> None:
    with pytest.raises(CommandError, match="ended with 1: sbatch: error: invalid partition specified: nowhere"):
        batch_job(sandbox, "true", "--partition=nowhere")


def test_an_unknown_node_is_answered_with_the_nodes_there_are(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="'node9' is not a node of this sandbox; it has node1, node2, node3, node4"):
        sandbox.kill_node("node9")


def test_a_cable_that_is_not_there_cannot_be_pulled(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="`up` it with --network"):
        sandbox.cut("node1")


def test_the_key_and_the_directory_are_private(sandbox: Sandbox) -> None:
    assert sandbox.layout.root.stat().st_mode & 0o777 == 0o700
    assert (sandbox.layout.root / "etc/munge.key").stat().st_mode & 0o777 == 0o600


@needs_root
def test_another_user_reaches_neither_socket_nor_key(sandbox: Sandbox) -> None:
    with pytest.raises(CommandError, match="Permission denied"):
        sandbox.run(*NOBODY, "cat", f"{sandbox.layout.root}/etc/munge.key")
    with pytest.raises(CommandError, match="Permission denied"):
        sandbox.run(*NOBODY, "munge", "--no-input", f"--socket={sandbox.layout.root}/run/munge.socket")


def test_sandboxes_live_side_by_side_and_turn_each_other_s_users_away(sandbox: Sandbox, place: Path) -> None:
    (place / "link").symlink_to(place)
    with Sandbox.start(SandboxShape(nodes=2, gpus_per_node=1), place / "link/second") as second:
        assert len(second.node_states()) == 2
        assert len(sandbox.node_states()) == 4

        stranger = second.layout.slurm_conf_path.read_text().replace(
            f"SlurmctldPort={second.layout.slot.first_port}", f"SlurmctldPort={sandbox.layout.slot.first_port}"
        )
        (second.layout.root / "etc/stranger.conf").write_text(stranger)
        with pytest.raises(CommandError, match="Zero Bytes were transmitted or received"):
            second.run("env", f"SLURM_CONF={second.layout.root}/etc/stranger.conf", "sinfo")
        assert "Invalid credential" in (sandbox.layout.log_dir / "slurmctld.log").read_text()
    assert traces_of(place / "second") == []


def test_a_job_does_not_outlive_the_sandbox_even_detached_and_deaf_to_sigterm(place: Path) -> None:
    with Sandbox.start(SandboxShape(nodes=1, gpus_per_node=1), place / "s") as sandbox:
        batch_job(sandbox, "trap '' TERM; setsid sleep 600 & srun sleep 600; sleep 600", "--export=NONE")
        wait_until(lambda: [process.name for process in sandbox.processes("node1")].count("sleep") >= 2)
        jobs = [psutil.Process(process.pid) for process in sandbox.processes("node1")]
    assert not any(job.is_running() and job.status() != psutil.STATUS_ZOMBIE for job in jobs)
    assert traces_of(place / "s") == []


def test_a_killed_node_is_gone_at_once_and_works_again_when_started(place: Path) -> None:
    with Sandbox.start(SandboxShape(nodes=2, gpus_per_node=1, slurmd_timeout_s=3), place / "s") as sandbox:
        batch_job(sandbox, "srun sleep 600", "--nodelist=node2", "--no-requeue")
        wait_until(lambda: "sleep" in {process.name for process in sandbox.processes("node2")})

        sandbox.kill_node("node2")
        assert sandbox.processes("node2") == []
        assert [process.name for process in sandbox.processes("node1")] == ["slurmd"]

        sandbox.wait_for_state("node2", "down", "down*", within_s=60)
        sandbox.start_node("node2")
        sandbox.wait_for_state("node2", "idle", within_s=30)
        assert sandbox.run("srun", "--nodelist=node2", "hostname").strip() in ("node2", os.uname().nodename)
        with pytest.raises(SandboxError, match="node2 is on, with slurmd"):
            sandbox.start_node("node2")


@needs_root
def test_a_cut_off_node_goes_down_while_its_job_runs_on_and_comes_back_healed(place: Path) -> None:
    shape = SandboxShape(nodes=2, gpus_per_node=1, slurmd_timeout_s=3)
    with Sandbox.start(shape, place / "s", Isolation.NETWORK) as sandbox:
        batch_job(sandbox, "sleep 600", "--nodelist=node2", "--no-requeue")
        wait_until(lambda: "sleep" in {process.name for process in sandbox.processes("node2")})

        assert (NETWORK_DEVICES / sandbox.layout.link("node2")).exists()
        sandbox.cut("node2")
        sandbox.wait_for_state("node2", "down", "down*", within_s=60)
        assert sandbox.node_states()["node1"] == "idle"
        assert "sleep" in {process.name for process in sandbox.processes("node2")}

        sandbox.heal("node2")
        sandbox.wait_for_state("node2", "idle", within_s=30)
        wait_until(lambda: {process.name for process in sandbox.processes("node2")} == {"slurmd"})
    assert not [device.name for device in NETWORK_DEVICES.iterdir() if device.name.startswith(sandbox.layout.bridge)]
    assert traces_of(place / "s") == []


@needs_root
def test_ranks_talk_over_the_nodes_own_networks(place: Path) -> None:
    with Sandbox.start(SandboxShape(nodes=2, gpus_per_node=1), place / "s", Isolation.NETWORK) as sandbox:
        program = "from mpi4py.MPI import COMM_WORLD as ranks; print(ranks.allreduce(ranks.rank))"
        output = sandbox.run("srun", "--mpi=pmix", "--nodes=2", "--ntasks-per-node=2", sys.executable, "-c", program)
    assert output.split() == ["6"] * 4


@needs_root
def test_a_limited_network_carries_no_more_than_its_limit(place: Path) -> None:
    program = (
        "import time, numpy as np\n"
        "from mpi4py.MPI import COMM_WORLD as ranks\n"
        "data = np.zeros(250_000, np.uint8)\n"
        "ranks.Barrier(); start = time.perf_counter()\n"
        "ranks.Send(data, 1) if ranks.rank == 0 else ranks.Recv(data, 0)\n"
        "ranks.Barrier(); print(time.perf_counter() - start)"
    )
    with Sandbox.start(SandboxShape(nodes=2, gpus_per_node=1), place / "s", Isolation.NETWORK) as sandbox:
        cli("limit", "--dir", place / "s", "10")
        output = sandbox.run("srun", "--mpi=pmix", "--nodes=2", "--ntasks-per-node=1", sys.executable, "-c", program)
        with pytest.raises(SandboxError, match="a link of 0 Mbit/s carries nothing"):
            sandbox.limit_bandwidth(0)
    # 2 Mbit over 10 Mbit/s, but for the burst.
    assert max(map(float, output.split())) > 0.15


def test_plain_nodes_need_no_namespaces(place: Path) -> None:
    with Sandbox.start(SandboxShape(nodes=2), place / "s", Isolation.PLAIN) as sandbox:
        output = sandbox.run("srun", "--nodes=2", "sh", "-c", 'echo "$SLURMD_NODENAME $(hostname)"')
    assert sorted(output.splitlines()) == [f"node{number} {os.uname().nodename}" for number in (1, 2)]


def test_up_prints_the_line_that_selects_the_sandbox_and_down_ends_it(place: Path) -> None:
    up = cli("up", "--dir", place / "s", "--nodes", "3", "--gpus-per-node", "2")
    script = f"{up.stdout}\nsinfo --noheader --partition=gpu --format='%D %T %G'"
    seen = subprocess.run(("sh", "-c", script), capture_output=True, text=True, timeout=30, check=True)
    status = cli("status", "--dir", place / "s")
    down = cli("down", "--dir", place / "s")

    assert up.stdout == f"export SLURM_CONF={place}/s/etc/slurm.conf\n"
    assert seen.stdout == "3 idle gpu:2\n"
    assert "idle node[1-3]" in status.stdout
    assert (up.returncode, status.returncode, down.returncode) == (0, 0, 0)
    assert traces_of(place / "s") == []


def test_sandboxes_that_start_together_do_not_get_one_another_s_ports(place: Path) -> None:
    arguments = ("-m", "cluster.sandbox", "up", "--nodes=1", "--gpus-per-node=1", "--dir")
    ups = [
        subprocess.Popen((sys.executable, *arguments, str(place / name)), cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        for name in ("a", "b", "c")
    ]
    assert [up.wait(timeout=60) for up in ups] == [0, 0, 0]
    assert len({Sandbox.open(place / name).layout.slot for name in ("a", "b", "c")}) == 3


@needs_root
@pytest.mark.parametrize("isolation", [(), ("--plain",)], ids=["best", "plain"])
def test_an_ordinary_user_needs_no_root(place: Path, isolation: tuple[str, ...]) -> None:
    python = next(
        candidate
        for candidate in (sys.executable, "/usr/bin/python3")
        if subprocess.run((*NOBODY, candidate, "--version"), capture_output=True, check=False).returncode == 0
    )
    (place / "home").mkdir()
    shutil.chown(place / "home", 65534, 65534)
    user = {"HOME": f"{place}/home", "PATH": "/usr/bin:/bin", "SLURM_CONF": f"{place}/home/s/etc/slurm.conf"}
    step = ("srun", "--nodes=2", "--gres=gpu:4", "sh", "-c", 'echo "$SLURMD_NODENAME $(id -u) $CUDA_VISIBLE_DEVICES"')

    up = cli("up", "--dir", place / "home/s", "--nodes=2", *isolation, python=python, before=NOBODY, **user)
    seen = subprocess.run((*NOBODY, *step), env=user, capture_output=True, text=True, timeout=30, check=False)
    down = cli("down", "--dir", place / "home/s", python=python, before=NOBODY, **user)
    network = cli("up", "--dir", place / "home/n", "--network", python=python, before=NOBODY, **user)

    assert (up.returncode, down.returncode) == (0, 0), up.stderr + down.stderr
    assert sorted(seen.stdout.splitlines()) == ["node1 65534 0,1,2,3", "node2 65534 0,1,2,3"], seen.stderr
    assert traces_of(place / "home/s") == []
    assert network.returncode == 1
    assert "only root can make networks, and this is user 65534" in network.stderr


def test_missing_packages_are_named_in_one_error(place: Path) -> None:
    refused = cli("up", "--dir", place / "s", PATH="")

    assert refused.returncode == 2
    assert "apt-get install --no-install-recommends munge slurm-client slurmctld slurmd" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (place / "s").exists()


def test_what_a_sandbox_needs_depends_on_its_isolation(tmp_path: Path) -> None:
    everything = ["iproute2", "libpmix-dev", "munge", "slurm-client", "slurmctld", "slurmd"]
    assert missing_packages(Isolation.NETWORK, str(tmp_path), system_root=tmp_path) == everything
    assert "iproute2" not in missing_packages(Isolation.UTS, str(tmp_path), system_root=tmp_path)


def test_daemons_are_found_beside_the_programs_of_an_ordinary_user() -> None:
    assert with_sbin("/usr/local/bin:/usr/bin::/home/ada/tools") == (
        "/usr/local/bin:/usr/bin:/home/ada/tools:/usr/local/sbin:/usr/sbin"
    )


def test_an_up_whose_daemon_fails_quotes_it_and_leaves_nothing(place: Path) -> None:
    broken = place / "bin"
    broken.mkdir()
    (broken / "slurmd").write_text("#!/bin/sh\necho no room for slurmd >&2\nexit 3\n")
    (broken / "slurmd").chmod(0o755)

    failed = cli("up", "--dir", place / "s", PATH=f"{broken}:{os.environ['PATH']}")

    assert failed.returncode == 1
    assert "ended with 3" in failed.stderr
    assert "no room for slurmd" in failed.stderr
    assert traces_of(place / "s") == []


def test_an_up_that_is_told_to_end_leaves_nothing(place: Path) -> None:
    command = (sys.executable, "-m", "cluster.sandbox", "up", "--dir", str(place / "s"))
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as up:
        wait_until((place / "s/run/munge.socket").exists)
        up.send_signal(signal.SIGTERM)
        assert up.wait(timeout=30) == 128 + signal.SIGTERM
    assert traces_of(place / "s") == []


def test_down_ends_what_a_killed_up_has_left(place: Path) -> None:
    command = (sys.executable, "-m", "cluster.sandbox", "up", "--dir", str(place / "s"))
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as up:
        wait_until((place / "s/run/slurmctld.pid").exists)
        up.kill()
    assert cli("down", "--dir", place / "s").returncode == 0
    assert traces_of(place / "s") == []


def test_nodes_share_a_host_name_where_namespaces_are_forbidden(place: Path) -> None:
    (place / "unshare").write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2\nexit 1\n")
    (place / "unshare").chmod(0o755)
    assert best_isolation(f"{place}:{with_sbin(os.environ['PATH'])}") is Isolation.PLAIN


def test_a_directory_that_holds_something_is_not_taken(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine/thesis.tex").touch()

    with pytest.raises(SandboxError, match=r"mine exists; .* choose another --name or --dir"):
        Sandbox.start(directory=place / "mine")
    with pytest.raises(SandboxError, match="there is no sandbox in"):
        Sandbox.open(place / "mine")
    with pytest.raises(SandboxError, match=r"cannot be made \(No such file or directory\)"):
        Sandbox.start(directory=place / "nowhere/s")
    assert (place / "mine/thesis.tex").exists()


@needs_root
def test_a_sandbox_that_somebody_else_put_there_is_not_touched(place: Path) -> None:
    with Sandbox.start(SandboxShape(nodes=1), place / "s") as sandbox:
        shutil.chown(sandbox.layout.root, 65534)
        with pytest.raises(SandboxError, match="is another user's"):
            Sandbox.open(sandbox.layout.root)


@pytest.mark.parametrize("directory", ["/tmp/with space", "/tmp/a,b", "/tmp/" + "x" * 70])
def test_a_directory_that_slurm_cannot_take_is_refused(directory: str) -> None:
    with pytest.raises(SandboxLayoutError, match="--dir"):
        Sandbox.start(directory=Path(directory))


@pytest.mark.parametrize("shape", [{"nodes": 0}, {"nodes": 201}, {"gpus_per_node": 0}])
def test_an_impossible_shape_is_refused_with_its_value(shape: dict[str, int]) -> None:
    ((name, value),) = shape.items()
    with pytest.raises(SandboxLayoutError, match=f"{name} is {value}"):
        SandboxShape(**shape)
