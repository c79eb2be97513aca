"""Nobody has to believe that NCCL moved the gradients: ranks that would not use it end before epoch 0."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest

from storage.protocol.records import CommunicatorReport
from trainers.data_plane import DataPlaneError, host_data_plane, own_gpu, require_data_plane
from trainers.gpu import gpu_uuid

ON_GPUS = CommunicatorReport(
    world_size=4,
    hosts=["node1", "node1", "node2", "node2"],
    data_plane="nccl",
    nccl_built=True,
    mpi_built=True,
    gloo_built=False,
    mpi_enabled=True,
    gloo_enabled=False,
    gpus=["A100 GPU-0", "A100 GPU-1", "A100 GPU-0", "A100 GPU-1"],
    threads_per_rank=8,
    versions={},
)


@pytest.mark.parametrize(
    ("found", "slowest"), [("nccl", "nccl"), ("nccl", "gloo"), ("mpi", "mpi"), ("mpi", "gloo"), ("gloo", "gloo")]
)
def test_what_is_as_fast_as_asked_is_accepted(found: str, slowest: str) -> None:
    require_data_plane(replace(ON_GPUS, data_plane=found), slowest)


@pytest.mark.parametrize(("found", "slowest"), [("mpi", "nccl"), ("gloo", "nccl"), ("gloo", "mpi")])
def test_what_is_slower_than_asked_is_refused(found: str, slowest: str) -> None:
    with pytest.raises(DataPlaneError, match=f"{found} would move the gradients, but the site asks for {slowest}"):
        require_data_plane(replace(ON_GPUS, data_plane=found), slowest)


@pytest.mark.parametrize(
    ("told", "mpi_enabled", "taken"),
    [(None, True, "mpi"), ("GLOO", True, "gloo"), ("MPI", True, "mpi"), (None, False, "gloo")],
)
def test_a_horovod_with_both_takes_gloo_where_it_is_told_to(told: str | None, mpi_enabled: bool, taken: str) -> None:
    environ = {} if told is None else {"HOROVOD_CPU_OPERATIONS": told}

    assert host_data_plane(environ, mpi_enabled=mpi_enabled) == taken


def test_a_rank_without_a_gpu_of_its_own_is_named() -> None:
    with pytest.raises(DataPlaneError, match="rank 3 on node2 has no GPU of its own"):
        require_data_plane(replace(ON_GPUS, gpus=["A100 GPU-0", "A100 GPU-1", "A100 GPU-0", ""]), "nccl")


def test_ranks_that_share_a_gpu_are_named() -> None:
    with pytest.raises(DataPlaneError, match="ranks 2 and 3 on node2 have one GPU, A100 GPU-1"):
        require_data_plane(replace(ON_GPUS, gpus=["A100 GPU-0", "A100 GPU-1", "A100 GPU-1", "A100 GPU-1"]), "nccl")


@pytest.mark.parametrize("local_rank", range(4))
@pytest.mark.parametrize("visible_devices", ["0,1,2,3", "3,2,1,0", "GPU-a,GPU-b,GPU-c,GPU-d"])
def test_of_several_gpus_a_rank_takes_the_one_of_its_own_number(local_rank: int, visible_devices: str) -> None:
    assert own_gpu(local_rank, len(visible_devices.split(","))) == local_rank


@pytest.mark.parametrize("local_rank", range(4))
def test_a_rank_that_sees_one_gpu_takes_it(local_rank: int) -> None:
    # CUDA_VISIBLE_DEVICES holds local_rank, or 0 in a cgroup of its own; which GPU that is, its UUID says.
    assert own_gpu(local_rank, visible_gpus=1) == 0


@pytest.mark.parametrize(("local_rank", "visible_gpus"), [(0, 0), (2, 2), (3, 2)])
def test_a_rank_beyond_the_gpus_that_it_sees_has_none(local_rank: int, visible_gpus: int) -> None:
    assert own_gpu(local_rank, visible_gpus) is None


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU here")
def test_a_gpu_is_named_as_nvidia_smi_names_it() -> None:
    listed = subprocess.run(("nvidia-smi", "-L"), capture_output=True, text=True, check=True).stdout

    assert f"UUID: {gpu_uuid(0)}" in listed


def test_an_unknown_plane_is_answered_with_those_there_are() -> None:
    with pytest.raises(DataPlaneError, match="REQUIRED_BACKEND='infiniband'; it must be one of nccl, mpi, gloo"):
        require_data_plane(ON_GPUS, "infiniband")
