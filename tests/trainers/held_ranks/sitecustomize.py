"""Holds ranks in the middle of an epoch. Python imports it at its start, when this folder is on PYTHONPATH.

Before a rank reads batch number HOLD_AT_READ, counted from 1 over training and validation, it writes its process id to
HOLD_DIR/held-TRIAL-ATTEMPT-RANK and waits until it is signalled or the file is taken away. Where HOLD_DIR/held-no-more
is, it does not. So a test needs no luck to meet a trial in mid-epoch, on however fast a machine.
"""

import os
import select
import signal
import sys
from pathlib import Path

# Set by both launchers, for the ranks alone.
if "PMIX_RANK" in os.environ and "HOLD_AT_READ" in os.environ:
    from trainers.datasets import ArraySource

    hold_at = int(os.environ["HOLD_AT_READ"])
    words = sys.orig_argv
    trial = Path(words[words.index("trainers") + 1]).name
    attempt = next(word.partition("=")[2] for word in words if word.startswith("--attempt="))
    folder = Path(os.environ["HOLD_DIR"])
    marker = folder / f"held-{trial}-{attempt}-{os.environ['PMIX_RANK']}"
    signalled, note = os.pipe()
    os.set_blocking(note, False)
    signal.set_wakeup_fd(note)
    read, reads = ArraySource.read, 0

    def read_or_hold(source, indices, out):
        global reads
        reads += 1
        if reads == hold_at and not (folder / "held-no-more").exists():
            scratch = marker.with_suffix(".part")
            scratch.write_text(str(os.getpid()))
            scratch.rename(marker)
            while marker.exists() and not select.select([signalled], [], [], 0.05)[0]:
                pass
        return read(source, indices, out)

    ArraySource.read = read_or_hold
