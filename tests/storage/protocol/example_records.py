"""One record of each type, with values that are hard to keep."""

from __future__ import annotations

import math
from pathlib import Path

from storage.protocol.attempts import AttemptEnd, AttemptRequest, Failure, RankLayout
from storage.protocol.records import CommunicatorReport, ComponentSpec, EpochMetrics, Outcome, TrialResult, TrialSpec

SPEC = TrialSpec(
    study_name="demo",
    trial_number=7,
    seed=3,
    epochs=100,
    world_size=16,
    loader_batch_size=1024,
    model=ComponentSpec("efficientnet_b0"),
    dataset=ComponentSpec("image_folder", {"path": "data/ä", "size": None, "bands": [1, 2, 3]}),
    optimizer=ComponentSpec("sgd", {"learning_rate": 0.20735, "nesterov": False}),
    batch_policy=ComponentSpec("constant", {"global_batch_size": 512}),
    cache_dir="cache",
    deterministic=True,
)
METRICS = EpochMetrics(
    epoch=4,
    train_loss=math.nan,
    val_loss=math.inf,
    f1_micro=0.78,
    f1_macro=0.1 + 0.2,
    global_batch_size=512,
    learning_rate=1e-3,
    updates=12,
    samples=6144,
    samples_per_s=1e5,
    first_batch_s=0.5,
    wall_s=60.25,
)
REPORT = CommunicatorReport(
    world_size=2,
    hosts=["node1", "node2"],
    data_plane="mpi",
    nccl_built=False,
    mpi_built=True,
    gloo_built=False,
    mpi_enabled=True,
    gloo_enabled=False,
    gpus=["", ""],
    threads_per_rank=4,
    versions={"horovod": "0.28.1"},
)
RESULT = TrialResult(Outcome.PAUSED, epochs_done=4, reason="interrupted")
REQUEST = AttemptRequest(
    trial_dir=Path("/shared/runs/ä demo/trials/0007"),
    trial_number=7,
    attempt_number=3,
    layout=RankLayout(nodes=4, ranks_per_node=4, cpus_per_rank=16, gpus_per_node=4),
    launcher_name="srun",
    launcher_options=("--mpi=pmix_v4",),
    environment={"NCCL_SOCKET_IFNAME": "ib0"},
    time_left_s=math.inf,
)
END = AttemptEnd(
    failure=Failure.CRASHED,
    reason="ValueError: x (exit code 1)",
    exit_code=1,
    wall_s=61.5,
    epochs=(METRICS,),
    communicator=REPORT,
    log_tail="Traceback\nValueError: x",
)
