"""Nobody has to believe that NCCL moved the gradients: ranks that would not use it end before epoch 0."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.records import CommunicatorReport
from trainers.data_plane import DataPlaneError, require_data_plane

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


def test_an_unknown_plane_is_answered_with_those_there_are() -> None:
    with pytest.raises(DataPlaneError, match="'infiniband'; it must be one of nccl, mpi, gloo"):
        require_data_plane(ON_GPUS, "infiniband")
