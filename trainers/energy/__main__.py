"""Samples one node's energy: `python -m trainers.energy [GPU-UUID...]`

For each line on standard input it prints one with what has been counted so far. It ends when its input does, by
whatever death its rank died. A process of its own, because perun takes seconds to import, and its libraries start
further processes.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

from storage.protocol.codec import to_json
from storage.protocol.variables import POWERCAP_DIR, TRIALS_ON_MACHINE
from trainers.energy.sampler import Sampler
from trainers.energy.sensors import POWERCAP, accumulator_of, open_sensors

# Power goes up and down with each update; a counter could be read every minute.
_EVERY_S = 0.5
_AT_ONCE = 1 << 12


def main(gpus: list[str]) -> None:
    # By the first the ranks are asked to save a checkpoint, which is still to be counted.
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    powercap = Path(os.environ.get(POWERCAP_DIR, POWERCAP))
    sensors, missing = open_sensors(gpus, powercap, int(os.environ.get(TRIALS_ON_MACHINE, 1)))
    accumulated = {counter: [(each, accumulator_of(each)) for each in found] for counter, found in sensors.items()}
    sampler = Sampler(accumulated, missing, time.monotonic)
    while True:
        reading = sampler.sample()
        if select.select([sys.stdin], [], [], _EVERY_S if sensors else None)[0]:
            asked = os.read(sys.stdin.fileno(), _AT_ONCE)
            if not asked:
                return
            reading = sampler.sample()
            for _ in range(asked.count(b"\n")):
                print(to_json(reading), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
