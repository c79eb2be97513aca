"""The network of a sandbox in network mode: a bridge on this machine and a cable from it to each node."""

from __future__ import annotations

from pathlib import Path

from cluster.sandbox.commands import CommandError, output_of
from cluster.sandbox.layout import SandboxLayout


def create_bridge(layout: SandboxLayout, search_path: str) -> None:
    """Make the bridge and give this machine its address on it. The cables come with the nodes, see node.sh."""
    _ip(search_path, "link", "add", layout.bridge, "type", "bridge")
    _ip(search_path, "address", "add", f"{layout.controller_address}/24", "dev", layout.bridge)
    _ip(search_path, "link", "set", layout.bridge, "up")


def plug(layout: SandboxLayout, node: str, search_path: str) -> None:
    _ip(search_path, "link", "set", layout.link(node), "up")


def unplug(layout: SandboxLayout, node: str, search_path: str) -> None:
    _ip(search_path, "link", "set", layout.link(node), "down")


def limit_rate(layout: SandboxLayout, node: str, mbit_per_s: float, search_path: str) -> None:
    """Let no more through to a node than a link of this speed would. What others send to it is queued, not dropped."""
    device = ("qdisc", "replace", "dev", layout.link(node), "root")
    # A burst is what passes unshaped: small, or short messages would see a network without a limit.
    shaping = ("tbf", "rate", f"{round(mbit_per_s * 1e6)}bit", "burst", "32kb", "limit", "16mb")
    output_of(("tc", *device, *shaping), {"PATH": search_path}, timeout_s=10)


def remove_device(device: str, search_path: str) -> None:
    """Remove a network device if there is one of this name."""
    if not _is_there(device):
        return
    try:
        _ip(search_path, "link", "delete", device)
    except CommandError:
        # A cable goes by itself a little after its node's last process, and may have done so just now.
        if _is_there(device):
            raise


def _is_there(device: str) -> bool:
    return Path("/sys/class/net", device).exists()


def _ip(search_path: str, *arguments: str) -> None:
    output_of(("ip", *arguments), {"PATH": search_path}, timeout_s=10)
