"""`make gpu-check` in a job of a real Slurm, whose nodes are joined by links of a known rate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.sandbox import Isolation, Sandbox, SandboxShape
from tests.architecture.sources import REPOSITORY
from tests.cluster.installed_slurm import needs_slurm
from tests.needs_root import needs_root
from tests.study.small_study import write_config
from tests.waiting import wait_until

pytestmark = [needs_slurm, needs_root, pytest.mark.timeout(900)]

NODES, LINK_MBIT_PER_S = 2, 400.0
WITHIN_S = 600.0

SITE = """
launcher = "srun"
nodes_per_trial = {nodes}
ranks_per_node = 1
cpus_per_rank = 1
gpus_per_node = 1
required_backend = "mpi"

[slurm]
queue = "gpu"
walltime = "01:00:00"
interface = "eth0"
driver_interface = "{bridge}"
squeue_every_s = 0.5
"""


@dataclass(frozen=True)
class Site:
    """A sandbox and a folder with a profile of it and the config of a study."""

    sandbox: Sandbox
    folder: Path

    def start(self, *options: str) -> subprocess.Popen[str]:
        """As a person types it."""
        program = (sys.executable, str(REPOSITORY / "study/gpu_check.py"), "--site", "site.toml")
        return subprocess.Popen(
            (*program, "--config", "small.toml", *options),
            cwd=self.folder,
            env={**os.environ, **self.sandbox.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def jobs(self) -> list[str]:
        return self.sandbox.run("squeue", "--noheader", "--states=running,pending,completing").splitlines()

    def has_nothing_left(self) -> bool:
        return not self.jobs() and not (self.folder / "runs").exists()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with Sandbox.start(SandboxShape(NODES, gpus_per_node=1), isolation=Isolation.NETWORK) as sandbox:
        sandbox.limit_bandwidth(LINK_MBIT_PER_S)
        (folder / "site.toml").write_text(SITE.format(nodes=NODES, bridge=sandbox.layout.bridge))
        write_config(folder)
        yield Site(sandbox, folder)


def found_by(site: Site, minutes: float, link_gbit_per_s: float) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON."""
    options = ("--minutes", f"{minutes:g}", "--site-set", f"link_gbit_per_s={link_gbit_per_s:g}")
    check = site.start(*options, "--json", "found.json")
    said = check.communicate(timeout=WITHIN_S)
    found = site.folder / "found.json"
    assert found.exists(), said
    return check.returncode, json.loads(found.read_text())


def test_links_as_fast_as_the_profile_says_pass_with_the_times_and_the_cost_of_the_study(site):
    exit_code, found = found_by(site, 4, LINK_MBIT_PER_S / 1000)

    rows = {row["name"]: row["status"] for row in found["rows"]}
    assert exit_code == 0, found["rows"]
    assert found["passed"]
    assert {rows[name] for name in ("job", "ranks", "data plane", "allreduce", "link", "cost")} == {"pass"}
    assert rows["step float32"] == "pass"
    assert rows["peak memory"] == "skipped"
    assert len(set(found["facts"]["ranks"]["report"]["hosts"])) == NODES
    assert site.has_nothing_left()


def test_links_much_slower_than_the_profile_says_fail_with_the_reason(site):
    exit_code, found = found_by(site, 1, 100 * LINK_MBIT_PER_S / 1000)

    assert exit_code == 1
    assert [row["status"] for row in found["rows"] if row["name"] == "link"] == ["fail"]
    assert len(found["reasons"]) == 1
    assert found["reasons"][0].startswith("link")
    assert site.has_nothing_left()


def test_ctrl_c_leaves_neither_job_nor_folder(site):
    check = site.start()
    wait_until(lambda: any(" R " in job for job in site.jobs()), WITHIN_S)

    check.send_signal(signal.SIGINT)
    check.communicate(timeout=WITHIN_S)

    assert check.returncode != 0
    wait_until(site.has_nothing_left, WITHIN_S)
