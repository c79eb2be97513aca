"""What Gloo costs beside MPI: the time that the ranks of one machine take to average a model's gradients.

Both by one Horovod, that of `make gloo`. Gloo is used as the paper had it, for the negotiation as well. It takes
sockets in any case, so MPI is measured both by sockets and by shared memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from cluster import private_network
from cluster.attempt import rank_environment
from cluster.launchers import launcher
from storage.protocol.attempts import AttemptRequest, RankLayout
from tests.architecture.sources import REPOSITORY
from tests.bench.table import Row

_PYTHON = REPOSITORY / ".venv-gloo/bin/python"
_RANKS = (2, 4, 8, 16)
_ROUNDS = 2
_MODELS = {"small_resnet": (32, 12), "efficientnet_b0": (120, 12)}
"""With the pixels and bands of their images."""
_SHAPES = """
import json, sys
from storage.protocol.records import ComponentSpec
from trainers import components
size, bands = map(int, sys.argv[2:])
model = components.build("models", ComponentSpec(sys.argv[1]), (size, size, bands), 19)
print(json.dumps([list(variable.shape) for variable in model.trainable_variables]))
"""


def measure_allreduce() -> list[Row]:
    """Ratios for each model and number of ranks; no row without the environment of `make gloo`."""
    if not _PYTHON.exists():
        print("allreduce: not measured: `make gloo` sets up what it needs", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as folder:
        return list(_all_rows(Path(folder)))


def _all_rows(folder: Path) -> Iterator[Row]:
    for model in _MODELS:
        # In a file, for horovodrun joins what it is given without quotes.
        shapes = folder / f"{model}.json"
        shapes.write_text(_shapes(model))
        for ranks in _RANKS:
            yield from _rows(model, ranks, shapes)


def _rows(model: str, ranks: int, shapes: Path) -> Iterator[Row]:
    planes = {
        "gloo": _gloo(ranks),
        # Otherwise MPI takes no loopback, and nothing else is there.
        "sockets": _mpi(ranks, "--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"),
        "memory": _mpi(ranks),
    }
    taken: dict[str, list[dict[str, float]]] = {plane: [] for plane in planes}
    for _ in range(_ROUNDS):
        for plane, command in planes.items():
            taken[plane].append(_run(ranks, (*command, str(shapes))))
    case = f"{model}, {ranks} ranks on one machine"
    for way in ("in one group", "one by one"):
        seconds = {plane: median(run[way] for run in runs) for plane, runs in taken.items()}
        print(f"allreduce: {case}, {way}: {', '.join(f'{k} {v * 1e3:.1f} ms' for k, v in seconds.items())}", flush=True)
        yield Row(f"gradients {way}: Gloo / MPI by sockets", case, seconds["gloo"] / seconds["sockets"])
        yield Row(f"gradients {way}: Gloo / MPI by shared memory", case, seconds["gloo"] / seconds["memory"])


def _shapes(model: str) -> str:
    command = (sys.executable, "-c", _SHAPES, model, *map(str, _MODELS[model]))
    return subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _mpi(ranks: int, *options: str) -> tuple[str, ...]:
    return launcher("mpirun").argv(_layout(ranks), (str(_PYTHON), "-m", "tests.bench.allreduce_ranks"), options)


def _gloo(ranks: int) -> tuple[str, ...]:
    program = (str(_PYTHON), "-m", "tests.bench.allreduce_ranks")
    command = (
        str(_PYTHON.with_name("horovodrun")),
        "--gloo",
        "--network-interfaces",
        "lo",
        "-np",
        str(ranks),
        *program,
    )
    # Its rendezvous asks nobody who he is.
    return private_network.wrap(command)


def _layout(ranks: int) -> RankLayout:
    return RankLayout(nodes=1, ranks_per_node=ranks, cpus_per_rank=1)


def _run(ranks: int, command: Sequence[str]) -> dict[str, float]:
    request = AttemptRequest(Path(), 0, 1, _layout(ranks), "mpirun")
    environment = rank_environment(request, os.environ)
    # The other Horovod's mpirun.
    environment["PATH"] = f"{_PYTHON.parent}:{environment['PATH']}"
    run = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    # horovodrun puts each rank's number before its lines.
    line = next(line for line in run.stdout.splitlines() if "{" in line)
    found: dict[str, float] = json.loads(line[line.index("{") :])
    return found
