"""Which counters a node has, by perun's own sensors on files as Linux has them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from storage.protocol.codec import from_json
from storage.protocol.energy import EnergyReading
from storage.protocol.records import CommunicatorReport
from storage.protocol.variables import POWERCAP_DIR
from tests.powercap import LARGEST_UJ, set_counter, write_zone
from tests.waiting import wait_until
from trainers.energy import meter, sensors
from trainers.energy.meter import NodeSampler, gpus_on, require_energy
from trainers.faults import AllocationError

# One of those that the Makefile asks for.
COMPILER = next(filter(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++")))


def missing(powercap, gpus=(), trials_on_machine=1) -> dict[str, str]:
    found, why = sensors.open_sensors(gpus, powercap, trials_on_machine)
    assert not found
    return why


def test_a_machine_without_counters_says_so(tmp_path):
    assert missing(tmp_path)["rapl"].startswith(f"the kernel shows no processor in {tmp_path}")


def test_a_counter_of_the_whole_machine_is_not_taken_for_one_of_several_trials(tmp_path):
    assert "3 trials run at once; --jobs 1" in missing(tmp_path, trials_on_machine=3)["rapl"]


def test_counters_that_are_root_s_are_said_to_be():
    # Not in tmp_path, which is closed to others.
    with tempfile.TemporaryDirectory() as folder:
        powercap = Path(folder)
        powercap.chmod(0o755)
        zone = write_zone(powercap / "intel-rapl:0", "package-0")
        (zone / "energy_uj").chmod(0)
        with ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=become_nobody) as processes:
            why = processes.submit(missing, powercap).result()

    assert "only root may" in why["rapl"]


def become_nobody() -> None:
    """Root may read everything."""
    if os.geteuid() == 0:
        os.setuid(pwd.getpwnam("nobody").pw_uid)


def test_gpus_are_not_measured_without_a_driver_and_only_asked_for_where_ranks_have_some(tmp_path):
    assert missing(tmp_path).keys() == {"rapl"}
    assert missing(tmp_path, gpus=["GPU-1"]).keys() == {"rapl", "nvml"}


def test_a_process_counts_processors_and_memory_until_its_input_ends(tmp_path, monkeypatch):
    monkeypatch.setenv(POWERCAP_DIR, str(tmp_path))
    packages = [write_zone(tmp_path / f"intel-rapl:{n}", f"package-{n}", LARGEST_UJ) for n in (0, 1)]
    memory = write_zone(packages[0] / "intel-rapl:0:0", "dram", 5)
    # Part of its processor, and of all of them together: they would count twice.
    inside = write_zone(packages[0] / "intel-rapl:0:1", "core", 5)
    together = write_zone(tmp_path / "intel-rapl:2", "psys", 5)
    sampler = NodeSampler(gpus=())
    before = sampler.read()
    for zone, energy_uj in [(packages[0], 2_999_999), (packages[1], 999_999), (memory, 500_005)]:
        set_counter(zone, energy_uj)
    for zone in (inside, together):
        set_counter(zone, 9_000_000)

    counted = sampler.read().since(before)

    sampler.close()
    assert counted == {"rapl": pytest.approx(3.0 + 1.0 + 0.5)}
    assert sampler.read().joules == {}


def test_a_processor_that_perun_does_not_know_is_no_smaller_sum(tmp_path):
    for number in (0, 10):
        write_zone(tmp_path / f"intel-rapl:{number}", f"package-{number}")

    assert missing(tmp_path)["rapl"] == f"{tmp_path} shows 2 processors, of which 1 can be read"


def test_the_process_ends_with_its_rank(tmp_path):
    done = subprocess.run([sys.executable, "-m", "trainers.energy"], input="\n\n", capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert [from_json(EnergyReading, line).joules for line in done.stdout.splitlines()] == [{}, {}]


def test_without_perun_no_process_is_started_and_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(meter, "find_spec", lambda name: None)

    reading = NodeSampler(gpus=["GPU-1"]).read()

    assert reading.joules == {}
    assert reading.missing.keys() == {"rapl", "nvml"}
    assert "perun is not installed" in reading.missing["nvml"]


def report(gpus: tuple[str, ...], sources: tuple[str, ...]) -> CommunicatorReport:
    return CommunicatorReport(
        world_size=len(gpus),
        hosts=["node1", "node1", "node2"][: len(gpus)],
        data_plane="mpi",
        nccl_built=False,
        mpi_built=True,
        gloo_built=False,
        mpi_enabled=True,
        gloo_enabled=False,
        gpus=list(gpus),
        threads_per_rank=1,
        versions={},
        energy_sources=list(sources),
        energy_missing="rapl: it is root's",
    )


def test_of_the_gpus_of_a_node_those_of_its_ranks_are_counted():
    ranks = report(("NVIDIA A100-SXM4-40GB GPU-1", "NVIDIA A100-SXM4-40GB GPU-2", "NVIDIA A100-SXM4-40GB GPU-3"), ())

    assert (gpus_on("node1", ranks), gpus_on("node2", ranks)) == (["GPU-1", "GPU-2"], ["GPU-3"])
    assert gpus_on("node1", report(("", ""), ())) == []


@pytest.mark.parametrize(
    ("gpus", "sources"), [(("A100 GPU-1",), ("nvml",)), (("",), ("rapl",)), (("A100 GPU-1",), ("nvml", "rapl"))]
)
def test_where_the_ranks_compute_is_enough_to_go_by_energy(gpus, sources):
    require_energy(report(gpus, sources))


@pytest.mark.parametrize(("gpus", "sources"), [(("A100 GPU-1",), ("rapl",)), (("",), ())])
def test_ranks_that_cannot_measure_what_the_study_goes_by_do_not_train(gpus, sources):
    with pytest.raises(AllocationError, match=r"energy_kwh, and .* does not measure it here: rapl: it is root's"):
        require_energy(report(gpus, sources))


@pytest.fixture
def two_gpus(tmp_path, monkeypatch) -> None:
    """For processes that are started: NVML with two GPUs, of 100 and 300 W."""
    library, source = tmp_path / "libnvidia-ml.so.1", Path(__file__).with_name("nvml.cpp")
    watts = ("-DWATTS_0=100", "-DWATTS_1=300")
    subprocess.run((COMPILER, "-shared", "-fPIC", *watts, "-o", library, source), check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


@pytest.mark.parametrize(("gpus", "watts"), [(["GPU-1"], 300), (["GPU-0", "GPU-1"], 400)])
def test_the_power_of_the_ranks_gpus_is_integrated_and_not_that_of_others(two_gpus, gpus, watts):
    sampler = NodeSampler(gpus)
    sampler.read()
    asked_s, before, answered_s = time.monotonic(), sampler.read(), time.monotonic()
    wait_until(lambda: time.monotonic() - answered_s > 1.0)
    asked_again_s, after, answered_again_s = time.monotonic(), sampler.read(), time.monotonic()

    joules = after.since(before)["nvml"]

    sampler.close()
    assert watts * (asked_again_s - answered_s) <= joules <= watts * (answered_again_s - asked_s)


def test_a_gpu_that_nvml_does_not_know_is_no_smaller_sum(two_gpus):
    sampler = NodeSampler(["GPU-0", "MIG-7"])

    reading = sampler.read()

    sampler.close()
    assert reading.joules == {}
    assert reading.missing["nvml"].startswith("NVML tells no power of MIG-7")
