"""Holds ranks in the middle of an epoch. Python imports it at its start, when this folder is on PYTHONPATH.

Before a rank reads batch number HOLD_AT_READ, counted from 1 over training and validation, it writes its process id to
HOLD_DIR/held-RANK and waits until it is signalled. So a test needs no luck to meet a trial in mid-epoch.
"""

import os
import signal
from pathlib import Path

if "OMPI_COMM_WORLD_RANK" in os.environ and "HOLD_AT_READ" in os.environ:
    from trainers.datasets import ArraySource

    hold_at = int(os.environ["HOLD_AT_READ"])
    marker = Path(os.environ["HOLD_DIR"]) / f"held-{os.environ['OMPI_COMM_WORLD_RANK']}"
    signalled, note = os.pipe()
    os.set_blocking(note, False)
    signal.set_wakeup_fd(note)
    read, reads = ArraySource.read, 0

    def read_or_hold(source, indices):
        global reads
        reads += 1
        if reads == hold_at:
            scratch = marker.with_suffix(".part")
            scratch.write_text(str(os.getpid()))
            scratch.rename(marker)
            os.read(signalled, 1)
        return read(source, indices)

    ArraySource.read = read_or_hold
