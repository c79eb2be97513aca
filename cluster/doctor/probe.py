"""What the job runs on its first node, in a runner's place: `python -m cluster.doctor.probe FOLDER`

Looks at this node, then starts ranks as a runner does; each node's first rank looks at that node.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.attempt import rank_environment
from cluster.diagnosis import describe_exit
from cluster.doctor.clock_server import ClockServer, ask_clock
from cluster.doctor.energy import gather_energy
from cluster.doctor.facts import LaunchFacts, NodeFacts, ProbeRequest
from cluster.doctor.folder import gather_folder, is_lock_shared, measure_round_trip_s
from cluster.doctor.job_folder import JobFolder
from cluster.doctor.machine import gather_machine, host_name
from cluster.launchers import launcher

# NFS keeps the attributes of a folder for half a minute, on either side, unless it is told otherwise.
ROUND_TRIP_WITHIN_S = 70.0
# For all ranks to start, and for the first one of each node to look at it.
LAUNCHED_WITHIN_S = 150.0
_WRITTEN_BYTES = 2**20
_LOG_TAIL_BYTES = 8192


def look_at_node(folder: JobFolder, request: ProbeRequest) -> None:
    """Write down what this node has, unless another process does."""
    host = host_name()
    if not folder.claim_node(host):
        return
    machine = gather_machine()
    folder.write_node(
        NodeFacts(
            machine=machine,
            # A quota is the user's: its room was tried on the login node.
            folder=gather_folder(folder.path, host, _WRITTEN_BYTES),
            round_trip_s=measure_round_trip_s(folder.path, host, ROUND_TRIP_WITHIN_S),
            is_lock_shared=is_lock_shared(folder.path),
            link=ask_clock(ClockServer(request.clock_address, request.clock_token)) if request.clock_address else None,
            energy=gather_energy(machine.gpus or (), rank_environment(request.attempt, os.environ)),
        )
    )


def launch_ranks(folder: JobFolder, request: ProbeRequest) -> LaunchFacts:
    """Start the ranks by the site's launcher, in the environment that a trial's have."""
    attempt = request.attempt
    site_launcher = launcher(attempt.launcher_name)
    program = (sys.executable, "-m", "cluster.doctor.probe_rank", str(folder.path))
    try:
        ended = subprocess.run(
            site_launcher.argv(attempt.layout, program, attempt.launcher_options),
            env=rank_environment(attempt, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LAUNCHED_WITHIN_S,
        )
    except OSError as error:
        return LaunchFacts(127, f"{attempt.launcher_name}: {error.strerror}")
    except subprocess.TimeoutExpired as error:
        return LaunchFacts(None, site_launcher.explain(_text(error.stdout or b"")))
    if ended.returncode == 0:
        return LaunchFacts(0, "")
    code = ended.returncode if ended.returncode > 0 else 128 - ended.returncode
    return LaunchFacts(code, site_launcher.explain(_text(ended.stdout)) or describe_exit(code))


def _text(output: bytes) -> str:
    return output[-_LOG_TAIL_BYTES:].decode(errors="replace")


def main() -> int:
    folder = JobFolder(Path(sys.argv[1]))
    request = folder.read_request()
    look_at_node(folder, request)
    folder.write_launch(launch_ranks(folder, request))
    return 0


if __name__ == "__main__":
    sys.exit(main())
