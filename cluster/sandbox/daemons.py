"""The files and daemons of a sandbox, put in place."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

from cluster.sandbox.commands import start_daemon
from cluster.sandbox.layout import Isolation, SandboxLayout, gres_conf, hosts, slurm_conf
from storage.protocol.codec import to_json
from storage.protocol.files import write_atomically

_NODE_SCRIPT = Path(__file__).with_name("node.sh")


def write_files(layout: SandboxLayout) -> None:
    """Fill the sandbox's directory, which is there and empty."""
    root = layout.root
    for name in ("etc", "run", "log", "state", "spool", "tmp", "dev"):
        (root / name).mkdir()
    write_atomically(layout.record_path, to_json(layout).encode())
    for node in layout.nodes:
        (root / "spool" / node).mkdir()
        (root / "tmp" / node).mkdir()
    for gpu in range(layout.shape.gpus_per_node):
        # A device that ordinary users can make, and containers without CAP_MKNOD.
        (root / f"dev/nvidia{gpu}").symlink_to("/dev/null")
    layout.slurm_conf_path.write_text(slurm_conf(layout))
    layout.hosts_path.write_text(hosts(layout, Path("/etc/hosts").read_text()))
    (root / "etc/gres.conf").write_text(gres_conf(layout))
    key = root / "etc/munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))


def start_munged(layout: SandboxLayout, search_path: str) -> None:
    root = layout.root
    command = (
        "munged",
        "--force",  # It refuses a socket that not all users can reach; this one is private on purpose.
        f"--socket={root}/run/munge.socket",
        f"--key-file={root}/etc/munge.key",
        f"--pid-file={root}/run/munged.pid",
        f"--log-file={root}/log/munged.log",
        f"--seed-file={root}/run/munged.seed",
    )
    _start(layout, command, search_path)


def start_slurmctld(layout: SandboxLayout, search_path: str) -> None:
    _start(layout, ("slurmctld",), search_path)


def start_slurmd(layout: SandboxLayout, node: str, search_path: str) -> None:
    """Start a node, in namespaces of its own as far as the sandbox's isolation asks for it."""
    become_node = ("sh", str(_NODE_SCRIPT), node, str(layout.hosts_path))
    match layout.isolation:
        case Isolation.PLAIN:
            command: tuple[str, ...] = ("slurmd", "-N", node)
        case Isolation.UTS:
            command = (*_unshare(), *become_node)
        case Isolation.NETWORK:
            cable = (layout.node_address(node), layout.link(node), layout.bridge)
            command = (*_unshare(), "--net", *become_node, *cable)
    _start(layout, command, search_path)


def best_isolation(search_path: str) -> Isolation:
    """The nearest to real nodes that needs no root, and no more than this machine allows to this user."""
    # Containers and some distributions forbid the one or the other.
    trial = "hostname node1 && mount --bind /etc/hosts /etc/hosts && mount -t tmpfs tmpfs /dev/shm"
    command = (*_unshare(), "sh", "-c", trial)
    ended = subprocess.run(command, env={"PATH": search_path}, capture_output=True, check=False)
    return Isolation.UTS if ended.returncode == 0 else Isolation.PLAIN


def _unshare() -> tuple[str, ...]:
    # In a user namespace of its own, a process may do to its other namespaces what else only root may.
    as_root = () if os.geteuid() == 0 else ("--map-current-user", "--keep-caps")
    return ("unshare", *as_root, "--uts", "--mount")


def _start(layout: SandboxLayout, command: tuple[str, ...], search_path: str) -> None:
    # Nothing else of this process's environment: it would be the environment of the prologs, too.
    environ = {"PATH": search_path, "SLURM_CONF": str(layout.slurm_conf_path)}
    start_daemon(command, environ, layout.log_dir / "start.log")
