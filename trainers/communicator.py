"""The ranks' view of one another: collectives on the device by Horovod, on the host by MPI.

The only importer of Horovod and of mpi4py.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

# Before Horovod starts: MPI is then initialised here, with full thread support (Horovod's background thread and the
# host collectives below use it at once), and hvd.shutdown() leaves it alone.
from mpi4py import MPI  # isort: skip
import horovod  # isort: skip
import horovod.tensorflow as hvd  # isort: skip

from storage.protocol.records import CommunicatorReport
from storage.protocol.variables import WATCHDOG_LIMIT_S
from trainers.data_plane import DATA_PLANES, host_data_plane, own_gpu
from trainers.faults import AgreedError, AllocationError, exit_code_of
from trainers.gpu import gpu_uuid
from trainers.watchdog import DEFAULT_LIMIT_S, Watchdog

Value = TypeVar("Value")

_SHORTEST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.5


class Communicator:
    """All ranks of one attempt. Every method but the properties is a collective: all ranks call it, in one order."""

    def __init__(self) -> None:
        hvd.init()
        # A communicator of our own keeps host messages apart from Horovod's.
        self._host = MPI.COMM_WORLD.Dup()
        self._gpus = tf.config.list_physical_devices("GPU")
        self.watchdog = Watchdog(float(os.environ.get(WATCHDOG_LIMIT_S, DEFAULT_LIMIT_S)))
        self._own_gpu_index = own_gpu(hvd.local_rank(), len(self._gpus))
        if self._own_gpu_index is not None:
            tf.config.set_visible_devices(self._gpus[self._own_gpu_index], "GPU")
            tf.config.experimental.set_memory_growth(self._gpus[self._own_gpu_index], True)

    @property
    def rank(self) -> int:
        return hvd.rank()

    @property
    def world_size(self) -> int:
        return hvd.size()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that writes files."""
        return hvd.rank() == 0

    @property
    def is_first_on_node(self) -> bool:
        """Whether this rank is the one that does what each node needs once."""
        return hvd.local_rank() == 0

    def report(self, threads_per_rank: int) -> CommunicatorReport:
        """What the ranks found out about themselves; the same on all ranks."""
        facts = self._host.allgather((socket.gethostname(), self._own_gpu(), self._try_data_plane()))
        hosts, gpus, data_planes = map(list, zip(*facts, strict=True))
        return CommunicatorReport(
            world_size=hvd.size(),
            hosts=hosts,
            data_plane=max(data_planes, key=DATA_PLANES.index),
            nccl_built=bool(hvd.nccl_built()),
            mpi_built=bool(hvd.mpi_built()),
            gloo_built=bool(hvd.gloo_built()),
            mpi_enabled=bool(hvd.mpi_enabled()),
            gloo_enabled=bool(hvd.gloo_enabled()),
            gpus=gpus,
            threads_per_rank=threads_per_rank,
            versions={
                "tensorflow": tf.__version__,
                "horovod": horovod.__version__,
                "mpi": MPI.Get_library_version().split("\n")[0].split(",")[0],
            },
        )

    def _own_gpu(self) -> str:
        if self._own_gpu_index is None:
            # TensorFlow would take the first one that it sees, which is another rank's.
            return ""
        details = tf.config.experimental.get_device_details(self._gpus[self._own_gpu_index])
        return f"{details.get('device_name', 'GPU')} {gpu_uuid(self._own_gpu_index)}"

    def _try_data_plane(self) -> str:
        """Reduce something that lies where gradients do, and see where Horovod left the sum: it has operations on GPUs
        only if it was built with them, and takes everything else through the host."""
        total = hvd.allreduce(tf.ones([1]), op=hvd.Sum)
        if tf.DeviceSpec.from_string(total.device).device_type == "GPU" and hvd.nccl_built():
            return "nccl"
        return host_data_plane(os.environ, mpi_enabled=bool(hvd.mpi_enabled()))

    def require_world_size(self, world_sizes: Sequence[int]) -> None:
        """Refuse to train on other ranks than the trial was written for.

        Args:
            world_sizes: Each of them will do.

        Raises:
            AllocationError: More or fewer ranks have come.
        """
        if hvd.size() not in world_sizes:
            raise AllocationError(
                f"the trial asks for {' or '.join(map(str, world_sizes))} ranks but {hvd.size()} have met; start it as "
                f"`mpirun -np {world_sizes[0]} python -m trainers ...`."
            )

    def require_thread_support(self) -> None:
        """Refuse an MPI that several threads of a rank may not call at once, as Horovod's and ours do.

        Raises:
            AllocationError: Such an MPI has been started.
        """
        if (provided := MPI.Query_thread()) != MPI.THREAD_MULTIPLE:
            raise AllocationError(
                f"MPI gives its threads support of level {provided}, and MPI_THREAD_MULTIPLE is {MPI.THREAD_MULTIPLE}; "
                "take an MPI that is built with it, and leave MPI4PY_RC_THREAD_LEVEL unset."
            )

    def average_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Mean over ranks of each tensor, in one grouped allreduce. May be traced into a graph."""
        if hvd.size() == 1:
            return list(gradients)
        return hvd.grouped_allreduce(list(gradients), op=hvd.Average)

    def broadcast_variables(self, variables: Sequence[tf.Variable]) -> None:
        """Give every rank the first rank's values."""
        if hvd.size() > 1 and variables:
            hvd.broadcast_variables(list(variables), root_rank=0)

    def average_variables(self, variables: Sequence[tf.Variable]) -> None:
        """Set each variable to its mean over the ranks."""
        if hvd.size() > 1 and variables:
            means = hvd.grouped_allreduce([tf.convert_to_tensor(v) for v in variables], op=hvd.Average)
            for variable, mean in zip(variables, means, strict=True):
                variable.assign(mean)

    def sum(self, values: NDArray) -> NDArray:
        """Sum over ranks of a host array, in its own dtype."""
        total = np.empty_like(values)
        self._host.Allreduce(values, total, op=MPI.SUM)
        return total

    def max(self, value: int) -> int:
        """The largest value of all ranks."""
        largest = int(self._host.allreduce(value, op=MPI.MAX))
        self.heartbeat()
        return largest

    def heartbeat(self) -> None:
        """Called once a batch; when no call follows for minutes, this rank ends."""
        self.watchdog.heartbeat()

    def broadcast(self, value: Any) -> Any:
        """The first rank's value, on all ranks. The others' values are ignored."""
        return self._host.bcast(value, root=0)

    def wait_for_first(self, look: Callable[[], Value | None]) -> Value:
        """What the first rank finds by looking again and again. However long it takes, no rank is busy meanwhile.

        Args:
            look: Called on the first rank; None if there is nothing yet.
        """
        found, pause_s = None, _SHORTEST_PAUSE_S
        while self.is_first and (found := look()) is None:
            time.sleep(pause_s)
            # Who has waited for a minute can wait for half a second more, and spares the file system.
            pause_s = min(1.1 * pause_s, _LONGEST_PAUSE_S)
            self.heartbeat()
        arrived = self._host.Ibarrier()
        while not arrived.Test():
            time.sleep(_SHORTEST_PAUSE_S)
            self.heartbeat()
        return self.broadcast(found)

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value in rank order, on the first rank; None on the others."""
        return self._host.gather(value, root=0)

    def run_on_all_ranks(self, act: Callable[[], Value]) -> Value:
        """Do something on each rank alone, no collective in it, and go on only if it worked on all of them.

        Raises:
            AgreedError: On all ranks, with the words and the exit code of the first one that failed.
        """
        cause: Exception | None = None
        try:
            value = act()
        except (ValueError, OSError, AllocationError, MemoryError) as error:
            cause = error
        own = None if cause is None else (str(cause), exit_code_of(cause))
        failed = [words for words in self._host.allgather(own) if words is not None]
        if failed:
            raise AgreedError(*failed[0]) from cause
        return value

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Let rank 0 run the block to its end before the others enter it: what it caches, they find."""
        if not self.is_first:
            self._host.Barrier()
        yield
        if self.is_first:
            self._host.Barrier()


def configure_threads(threads: int | None, deterministic: bool) -> int:
    """Set TensorFlow's thread pools, before its first operation; gives the number of threads in use.

    Args:
        threads: Per rank; None takes the cores that this process may run on.
    """
    count = 1 if deterministic else threads or len(os.sched_getaffinity(0))
    if tf.config.threading.get_intra_op_parallelism_threads() == count:
        # By a trial before, and TensorFlow has begun.
        return count
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1 if deterministic else 2)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return count
