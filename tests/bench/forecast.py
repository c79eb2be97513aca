"""How well epochs of 4, 8 and 16 ranks are forecast from those of 1 and 2, on a sandbox whose network is slow.

All ranks share this machine's cores, and the links between their nodes are shaped so that the allreduce takes most of
an update from 2 nodes on: what is checked is how the allreduce grows with the ranks, and that ranks which share cores
take turns. Two ranks on one node, which need no link, tell its latency from its bandwidth.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.attempt import rank_environment
from cluster.launchers import launcher
from cluster.profile import available_cores
from cluster.sandbox import Isolation, MissingPackagesError, Sandbox, SandboxShape
from storage.protocol.attempts import AttemptRequest, RankLayout
from storage.protocol.records import ComponentSpec, EpochMetrics
from storage.protocol.trial_dir import TrialDir
from storage.protocol.variables import REQUIRED_BACKEND
from study.forecast.forecast import Forecast
from study.forecast.measurements import MeasuredEpoch, Measurements
from study.forecast.performance_model import Placement
from tests.architecture.sources import REPOSITORY
from tests.bench.table import Row
from tests.trainers.tiny_trial import switch_at, tiny_spec
from tests.waiting import wait_until

_LINK_MBIT_PER_S = 20.0
_TRAIN, _VAL = 512, 64
_LOCAL_SMALL, _LOCAL_LARGE = 4, 8
_EPOCHS, _SWITCH = 4, 2
_MEASURED = ((1, 1), (2, 1), (2, 2))
"""Ranks and nodes."""
_FORECAST = ((4, 4), (8, 8), (16, 16))
_WITHIN_S = 900.0
# A network of 320,000 weights on few pixels: much to reduce and little to compute.
_MODEL = ComponentSpec("small_resnet", {"width": 64, "blocks": [1, 1]})
# Above a gradient: the answer to a request to send would wait in a slow link behind what is sent the other way, and the
# link would carry one direction after the other.
_EAGER = {f"OMPI_MCA_btl_tcp_{limit}": str(4 * 2**20) for limit in ("eager_limit", "rndv_eager_limit", "max_send_size")}
# Both send what the model says. By default Open MPI 5 exchanges such gradients in pairs (Rabenseifner's algorithm),
# which a shaped link carries worse than a ring.
_ALGORITHMS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "ring": {"OMPI_MCA_coll_tuned_use_dynamic_rules": "1", "OMPI_MCA_coll_tuned_allreduce_algorithm": "4"},
}
_PATIENCE = {"HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "600", "SWITCHYARD_WATCHDOG_LIMIT_S": "900"}


def measure_forecast() -> list[Row]:
    """Relative errors of the forecast epochs; no row without Slurm or root."""
    if os.geteuid() != 0:
        print("forecast: not measured: only root can make networks", file=sys.stderr)
        return []
    nodes = max(nodes for _, nodes in _FORECAST)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Sandbox.start(SandboxShape(nodes, gpus_per_node=1), isolation=Isolation.NETWORK) as sandbox,
        ):
            sandbox.limit_bandwidth(_LINK_MBIT_PER_S)
            return [
                row
                for name, options in _ALGORITHMS.items()
                for row in _rows(sandbox, Path(folder) / name, name, options)
            ]
    except MissingPackagesError as error:
        print(f"forecast: not measured: {error}", file=sys.stderr)
        return []


def _rows(sandbox: Sandbox, folder: Path, algorithm: str, options: Mapping[str, str]) -> Iterator[Row]:
    measured: list[MeasuredEpoch] = []
    print(f"forecast: allreduce: {algorithm}", flush=True)
    for ranks, nodes in _MEASURED:
        epochs = _train(sandbox, folder, ranks, nodes, options)
        _say(ranks, nodes, epochs)
        measured += [_measured(_placement(ranks, nodes), metrics) for metrics in epochs]
    of_two = [epoch for epoch in measured if epoch.placement.nodes == 2]
    for ranks, nodes in _FORECAST:
        forecast = Forecast.of(Measurements(tuple(measured)), _placement(ranks, nodes), _TRAIN)
        if forecast is None:
            raise RuntimeError(f"{len(measured)} epochs are too few for a forecast")
        # Said before the ranks run.
        said = forecast.epochs_s(schedule := _schedule(ranks))
        print(f"forecast: {ranks} ranks: {said}, costs {forecast.updates.costs}")
        epochs = _train(sandbox, folder, ranks, nodes, options)
        _say(ranks, nodes, epochs)
        took_s = sum(metrics.wall_s for metrics in epochs)
        # As if an update took the same time on any number of nodes.
        naive_s = sum(_TRAIN // size * _update_s_of(of_two, size // ranks) for size in schedule)
        print(f"forecast: {ranks} ranks: took {took_s:.2f} s, inside the interval: {said.low <= took_s <= said.high}")
        case = f"{nodes} nodes x 1 rank, links of {_LINK_MBIT_PER_S:g} Mbit/s, allreduce: {algorithm}"
        yield Row(f"error of {_EPOCHS} epochs, from 1 and 2 ranks", case, abs(said.expected / took_s - 1), "<= 0.15")
        yield Row("the same error, had an update of 2 nodes been taken for it", case, abs(naive_s / took_s - 1))


def _update_s_of(epochs: list[MeasuredEpoch], local_batch_size: int) -> float:
    times_s = [
        epoch.global_batch_size / epoch.samples_per_s
        for epoch in epochs
        if epoch.global_batch_size == local_batch_size * epoch.placement.ranks
    ]
    return sum(times_s) / len(times_s)


def _say(ranks: int, nodes: int, epochs: list[EpochMetrics]) -> None:
    updates = ", ".join(f"{metrics.global_batch_size / metrics.samples_per_s * 1e3:.1f}" for metrics in epochs)
    walls = ", ".join(f"{metrics.wall_s:.2f}" for metrics in epochs)
    print(f"forecast: {ranks} ranks on {nodes} nodes: updates of {updates} ms, epochs of {walls} s", flush=True)


def _placement(ranks: int, nodes: int) -> Placement:
    return Placement(ranks, nodes, max(1.0, ranks / available_cores()))


def _schedule(ranks: int) -> list[int]:
    return [ranks * (_LOCAL_SMALL if epoch < _SWITCH else _LOCAL_LARGE) for epoch in range(_EPOCHS)]


def _measured(placement: Placement, metrics: EpochMetrics) -> MeasuredEpoch:
    return MeasuredEpoch(placement, metrics.global_batch_size, metrics.samples_per_s, metrics.wall_s)


def _train(sandbox: Sandbox, folder: Path, ranks: int, nodes: int, options: Mapping[str, str]) -> list[EpochMetrics]:
    """One trial in a job of its own, without driver and runner, which would compute beside it."""
    trial = TrialDir(folder / f"{ranks}-on-{nodes}")
    trial.create(
        tiny_spec(
            epochs=_EPOCHS,
            world_size=ranks,
            loader_batch_size=_LOCAL_LARGE,
            model=_MODEL,
            dataset=ComponentSpec("synthetic_bigearthnet", {"train": _TRAIN, "val": _VAL, "test": 0, "size": 8}),
            batch_policy=switch_at(_SWITCH, ranks * _LOCAL_SMALL, ranks * _LOCAL_LARGE),
            cache_dir=str(folder / "cache"),
            deterministic=False,
        )
    )
    attempt = trial.new_attempt()
    layout = RankLayout(nodes, ranks // nodes, 1)
    program = (sys.executable, "-m", "trainers", str(trial.path), "--attempt=1", "--threads=1")
    command = shlex.join(launcher("srun").argv(layout, program))
    request = AttemptRequest(
        trial.path, 0, 1, layout, "srun", environment={REQUIRED_BACKEND: "mpi", **_EAGER, **_PATIENCE, **options}
    )
    log = folder / f"{trial.path.name}.log"
    subprocess.run(
        ("sbatch", f"--nodes={nodes}", f"--ntasks-per-node={ranks // nodes}", f"--output={log}", f"--wrap={command}"),
        env=sandbox.environ | rank_environment(request, os.environ),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    try:
        wait_until(lambda: attempt.read_result() or _has_ended(sandbox), _WITHIN_S, pause_s=0.5)
    except TimeoutError as error:
        raise TimeoutError(f"{ranks} ranks on {nodes} nodes: {log.read_text()[-2000:]}") from error
    if attempt.read_result() is None:
        raise RuntimeError(f"{ranks} ranks on {nodes} nodes: {log.read_text()[-2000:]}")
    # The next ones would share the cores with these.
    wait_until(lambda: _has_ended(sandbox), _WITHIN_S, pause_s=0.5)
    return attempt.read_metrics()


def _has_ended(sandbox: Sandbox) -> bool:
    return not sandbox.run("squeue", "--noheader").strip()
