"""`python -m trainers`, with room for some hundreds of megabytes on rank 1: a large batch fits into rank 0 only."""

from __future__ import annotations

import os
import resource
import sys

import psutil

import trainers.communicator  # noqa: F401  TensorFlow and MPI come first, they need more than a large batch.
from trainers.__main__ import main

# Start-up and images take about 480 MB of address space, the large batch 1.2 GB more: the limit is between them.
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    limit = psutil.Process().memory_info().vms + (4 << 28)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

sys.exit(main())
