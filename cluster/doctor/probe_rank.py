"""One rank that finds its peers and says so: `python -m cluster.doctor.probe_rank FOLDER`"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cluster.doctor.facts import RankFacts
from cluster.doctor.job_folder import JobFolder
from cluster.doctor.machine import host_name
from cluster.doctor.probe import look_at_node


def main() -> int:
    folder = JobFolder(Path(sys.argv[1]))
    look_at_node(folder, folder.read_request())
    # Starts MPI. Afterwards, so that a node is known where this fails.
    from mpi4py import MPI

    ranks = MPI.COMM_WORLD
    # All have met when all have this sum.
    world_size = ranks.allreduce(1)
    folder.write_rank(
        RankFacts(
            rank=ranks.rank,
            world_size=world_size,
            host=host_name(),
            mpi_library=MPI.Get_library_version().partition(",")[0].strip(),
            has_thread_multiple=MPI.Query_thread() == MPI.THREAD_MULTIPLE,
            visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
