"""Energy counters as Linux shows them: a folder of files, counted up by a process of its own as the kernel does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LARGEST_UJ = 262_143_328_850
WATTS = 50
_TICK_S = 0.01


def write_zone(zone: Path, name: str, energy_uj: int = 1, largest_uj: int = LARGEST_UJ) -> Path:
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text(f"{largest_uj}\n")
    set_counter(zone, energy_uj)
    return zone


def set_counter(zone: Path, energy_uj: int) -> None:
    """In place and in one write: readers hold the file open, and none finds it empty."""
    descriptor = os.open(zone / "energy_uj", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, f"{energy_uj:020d}\n".encode(), 0)
    finally:
        os.close(descriptor)


@contextmanager
def counting_powercap(folder: Path) -> Iterator[Path]:
    """The folder with one processor, which takes WATTS."""
    write_zone(folder / "intel-rapl:0", "package-0")
    counting = subprocess.Popen([sys.executable, "-m", "tests.powercap", str(folder / "intel-rapl:0")])
    try:
        yield folder
    finally:
        counting.kill()
        counting.wait()


def _count(zone: Path) -> None:
    began_uj, began_s = int((zone / "energy_uj").read_text()), time.monotonic()
    while not threading.Event().wait(_TICK_S):
        set_counter(zone, (began_uj + int((time.monotonic() - began_s) * WATTS * 1e6)) % (LARGEST_UJ + 1))


if __name__ == "__main__":
    _count(Path(sys.argv[1]))
