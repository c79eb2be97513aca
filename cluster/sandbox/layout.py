"""The configuration of a sandbox as a value: the same layout gives the same files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2s
from pathlib import Path

_MAX_NODES = 200

# A Unix socket's path holds 107 bytes; the longest that Slurm makes is spool/node200/node200_9999999.4294967291.
_MAX_DIRECTORY_BYTES = 66


class SandboxLayoutError(ValueError):
    """No sandbox can have this shape or lie in this place."""


class Isolation(StrEnum):
    """What each node of a sandbox has to itself, all being on one machine."""

    PLAIN = "plain"
    """Its daemon and its port. MPI sees one host, and starts at most two ranks per node."""
    UTS = "uts"
    """Its host name and shared memory, too. Needs root or, where the machine allows them, user namespaces."""
    NETWORK = "network"
    """Its address and network, too, which can be cut off. Needs root."""


@dataclass(frozen=True)
class SandboxShape:
    """What the cluster pretends to have. Slurm accounts for it; nothing is taken from the machine."""

    nodes: int = 8
    gpus_per_node: int = 4
    cpus_per_node: int = 8
    memory_per_node_mib: int = 64000
    slurmd_timeout_s: int = 15
    """A node that has not answered for so long is down. slurmctld takes two to four times as long to see that."""

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= _MAX_NODES:
            raise SandboxLayoutError(f"nodes is {self.nodes}; a sandbox has 1 to {_MAX_NODES}.")
        for name in ("gpus_per_node", "cpus_per_node", "memory_per_node_mib", "slurmd_timeout_s"):
            if getattr(self, name) < 1:
                raise SandboxLayoutError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True)
class Slot:
    """A range of ports and a subnet that no other sandbox on this machine has."""

    number: int

    @property
    def first_port(self) -> int:
        """slurmctld's; the following ones are the nodes'. All slots end below Linux's ephemeral ports, 32768."""
        return 17000 + 256 * self.number

    def address(self, host: int) -> str:
        # 198.18.0.0/15 is set aside for tests of network devices (RFC 2544): no site and no VPN has a route to it.
        return f"198.18.{self.number}.{host}"


SLOTS = tuple(map(Slot, range(60)))


@dataclass(frozen=True)
class SandboxLayout:
    """A shape in a place: all that the files of a sandbox are made of."""

    directory: str
    """Absolute; holds everything that the sandbox puts on disk."""
    isolation: Isolation
    slot: Slot
    user: str
    """Who runs all the daemons."""
    controller_host: str
    """This machine's short host name, which slurmctld insists on finding in its configuration."""
    shape: SandboxShape = field(default_factory=SandboxShape)

    def __post_init__(self) -> None:
        # slurm.conf has no quotes: a space ends a value, `#` a line, `,` and `[` make a list.
        if not re.fullmatch(r"/[A-Za-z0-9_./+-]*", self.directory):
            raise SandboxLayoutError(
                f"directory is {self.directory!r}; Slurm's configuration has room for an absolute path of letters, "
                "digits and . _ + - only. Choose another with --dir."
            )
        if len(self.directory) > _MAX_DIRECTORY_BYTES:
            raise SandboxLayoutError(
                f"directory is {self.directory}, {len(self.directory)} bytes long; beyond {_MAX_DIRECTORY_BYTES} the "
                "Unix sockets in it have no valid path. Choose a shorter one with --dir."
            )

    @property
    def root(self) -> Path:
        return Path(self.directory)

    @property
    def record_path(self) -> Path:
        """This layout, for the commands that come after `up`."""
        return self.root / "sandbox.json"

    @property
    def slurm_conf_path(self) -> Path:
        return self.root / "etc/slurm.conf"

    @property
    def hosts_path(self) -> Path:
        return self.root / "etc/hosts"

    @property
    def log_dir(self) -> Path:
        return self.root / "log"

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(f"node{number}" for number in range(1, self.shape.nodes + 1))

    @property
    def controller_address(self) -> str:
        return self.slot.address(254) if self.isolation is Isolation.NETWORK else "127.0.0.1"

    def node_address(self, node: str) -> str:
        return self.slot.address(_number(node)) if self.isolation is Isolation.NETWORK else "127.0.0.1"

    @property
    def bridge(self) -> str:
        """The network device that joins this machine with all nodes; exists in network mode only."""
        # Not the slot: cleaning up after a machine that crashed must not meet the devices of the slot's next owner.
        return "sb" + blake2s(self.directory.encode(), digest_size=4).hexdigest()

    def link(self, node: str) -> str:
        """This machine's end of a node's network cable; exists in network mode only."""
        return f"{self.bridge}n{_number(node)}"


def slurm_conf(layout: SandboxLayout) -> str:
    """The text of slurm.conf. Lines with a comment in it were found out the hard way."""
    shape, directory = layout.shape, layout.directory
    return f"""\
ClusterName=sandbox{layout.slot.number}
SlurmctldHost={layout.controller_host}({layout.controller_address})
SlurmctldPort={layout.slot.first_port}
SlurmUser={layout.user}
SlurmdUser={layout.user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for cred_expire + 1 seconds; the default is 120.
AuthInfo=socket={directory}/run/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/run/slurmctld.pid
SlurmdPidFile={directory}/run/slurmd-%n.pid
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd-%n.log
# PMIx makes a directory of the same name in it on every node: "spmix_appdir ... File exists" when nodes share one.
TmpFS={directory}/tmp/%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
# pmi2 fails with Open MPI.
MpiDefault=pmix
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={directory}/log/jobcomp.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Without it, one job takes all memory of its nodes.
DefMemPerNode={shape.memory_per_node_mib // 4}
GresTypes=gpu
# The nodes have what is written here, not what slurmd counts on this machine.
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=5
ReturnToService=1
JobRequeue=1
KillWait=5
SlurmdTimeout={shape.slurmd_timeout_s}
# A node that does not answer is found out no sooner than the messages to it have been given up; the default is 10.
MessageTimeout={min(shape.slurmd_timeout_s, 10)}
# Finished jobs stay visible to scontrol for so many seconds.
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{_node_lines(layout)}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=20
"""


def _number(node: str) -> int:
    return int(node.removeprefix("node"))


def _node_lines(layout: SandboxLayout) -> str:
    shape, port = layout.shape, layout.slot.first_port + 1
    has = (
        f"CPUs={shape.cpus_per_node} RealMemory={shape.memory_per_node_mib} Gres=gpu:{shape.gpus_per_node} "
        "State=UNKNOWN"
    )
    if layout.isolation is Isolation.NETWORK:
        return "\n".join(
            f"NodeName={node} NodeAddr={layout.node_address(node)} Port={port} {has}" for node in layout.nodes
        )
    return (
        f"NodeName=node[1-{shape.nodes}] NodeHostname=localhost NodeAddr={layout.controller_address} "
        f"Port=[{port}-{port + shape.nodes - 1}] {has}"
    )


def gres_conf(layout: SandboxLayout) -> str:
    """The text of gres.conf. Slurm drops GPUs that are a mere Count and refuses regular files as devices."""
    shape = layout.shape
    return f"NodeName=node[1-{shape.nodes}] Name=gpu File={layout.directory}/dev/nvidia[0-{shape.gpus_per_node - 1}]\n"


def hosts(layout: SandboxLayout, machine_hosts: str) -> str:
    """The nodes' /etc/hosts: the machine's own, and all nodes."""
    lines = [f"{layout.node_address(node)} {node}" for node in layout.nodes]
    return "\n".join([machine_hosts.rstrip("\n"), *lines, ""])
