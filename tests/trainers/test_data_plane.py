"""Nobody has to believe that NCCL moved the gradients: ranks that would not use it end before epoch 0."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.protocol.records import CommunicatorReport
from trainers.data_plane import DataPlaneError, physical_index, require_data_plane

ON_GPUS = CommunicatorReport(
    world_size=4,
    hosts=["node1", "node1", "node2", "node2"],
    data_plane="nccl",
    nccl_built=True,
    mpi_built=True,
    gloo_built=False,
    mpi_enabled=True,
    gloo_enabled=False,
    gpus=["A100:0", "A100:1", "A100:0", "A100:1"],
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


def test_a_rank_without_a_gpu_of_its_own_is_named() -> None:
    with pytest.raises(DataPlaneError, match="rank 3 on node2 has no GPU of its own"):
        require_data_plane(replace(ON_GPUS, gpus=["A100:0", "A100:1", "A100:0", ""]), "nccl")


def test_ranks_that_share_a_gpu_are_named() -> None:
    with pytest.raises(DataPlaneError, match="ranks 2 and 3 on node2 have one GPU, A100:1"):
        require_data_plane(replace(ON_GPUS, gpus=["A100:0", "A100:1", "A100:1", "A100:1"]), "nccl")


@pytest.mark.parametrize(("visible", "index"), [(None, "1"), ("0,1,2,3", "1"), ("3, 2", "2"), ("GPU-a,GPU-b", "GPU-b")])
def test_a_gpu_is_known_by_its_number_on_the_node(visible: str | None, index: str) -> None:
    assert physical_index(1, visible) == index


def test_an_unknown_plane_is_answered_with_those_there_are() -> None:
    with pytest.raises(DataPlaneError, match="REQUIRED_BACKEND='infiniband'; it must be one of nccl, mpi, gloo"):
        require_data_plane(ON_GPUS, "infiniband")
