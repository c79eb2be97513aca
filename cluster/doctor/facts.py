"""What the doctor found, before anybody judges it. JSON records: nodes write theirs to the shared folder."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage.protocol.attempts import AttemptRequest
from storage.protocol.energy import EnergyReading


@dataclass(frozen=True)
class GpuFacts:
    """One GPU, as the NVIDIA driver tells it."""

    name: str
    uuid: str
    driver: str
    memory_mib: int


@dataclass(frozen=True)
class MachineFacts:
    """What one machine has."""

    host: str
    python: str
    """Version."""
    executable: str
    packages: dict[str, str]
    """Versions of the installed ones among those that ranks and runners need."""
    cpus: int
    """That this process may run on."""
    interfaces: dict[str, tuple[str, ...]]
    """IPv4 addresses of each network interface; some have none."""
    compilers: dict[str, str] = field(default_factory=dict)
    """Paths by name: "C++" and "CUDA"."""
    gpus: tuple[GpuFacts, ...] | None = None
    """None: the driver's program is not there, or does not answer."""
    driver_cuda: str = ""
    """The newest CUDA that the driver knows; empty without a driver."""
    tensorflow_cuda: str = ""
    """The CUDA that TensorFlow was built with; empty: none."""
    horovod_has_nccl: bool = False


@dataclass(frozen=True)
class FolderFacts:
    """The studies' folder, as one machine sees it."""

    path: str
    file_system: str
    """Its type, such as nfs4 or lustre."""
    free_bytes: int
    failures: dict[str, str] = field(default_factory=dict)
    """What did not work, by the name of what was tried: write, rename, lock. In the operating system's words."""


@dataclass(frozen=True)
class LinkFacts:
    """A node's connection to the driver's machine."""

    address: str
    error: str = ""
    clock_ahead_s: float = 0.0
    """Of the node's clock, before the driver's; negative: it is behind."""
    uncertainty_s: float = 0.0


@dataclass(frozen=True)
class NodeFacts:
    """One node of the job."""

    machine: MachineFacts
    folder: FolderFacts
    round_trip_s: float | None
    """Until a new file of the node was seen on the login node, and the answer to it on the node; None: never."""
    is_lock_shared: bool | None
    """Whether a lock of the login node's holds here, too; None: locks do not work at all."""
    link: LinkFacts | None = None
    """None where there is no driver to reach: the ranks run on its own machine."""
    energy: EnergyReading | None = None
    """None: nobody has looked."""


@dataclass(frozen=True)
class RankFacts:
    """One rank, after MPI has started."""

    rank: int
    world_size: int
    host: str
    mpi_library: str
    has_thread_multiple: bool
    """Whether MPI may be called from several threads at once."""
    visible_gpus: str | None
    """CUDA_VISIBLE_DEVICES; None: not set."""


@dataclass(frozen=True)
class LaunchFacts:
    """How the launcher ended."""

    exit_code: int | None
    """None: it had not ended in time."""
    words: str
    """Its own, of a failure."""


@dataclass(frozen=True)
class JobFacts:
    """How far the job came."""

    refused: str = ""
    """The batch system's words, if it did not take the job."""
    waited_s: float = 0.0
    state: str = ""
    """The last one that the batch system told, with its reason."""
    has_left_queue: bool = True
    """Whether it was started, or ended, before the wait for it was over."""
    waits_in_vain: bool = False
    """Whether the state says that it will never start."""
    has_begun: bool = False
    """Whether its script has left a sign in the shared folder."""
    has_environment: bool = False
    """Whether all lines of the prologue succeeded."""
    log_tail: str = ""
    nodes: tuple[NodeFacts, ...] = ()
    ranks: tuple[RankFacts, ...] = ()
    launch: LaunchFacts | None = None
    """None: it never came to that."""


@dataclass(frozen=True)
class PartitionFacts:
    """One partition of the batch system."""

    name: str
    is_default: bool
    is_up: bool
    max_walltime_s: float
    """Infinite where there is no limit; so is `max_nodes`."""
    max_nodes: float
    accounts: tuple[str, ...] = ()
    """Who may use it; empty: everybody."""


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of a partition that are alike."""

    partition: str
    nodes: int
    cpus: int
    gpus: dict[str, int]
    """How many of each type; the type is empty where the site names none."""
    state: str


@dataclass(frozen=True)
class QueueFacts:
    """What the batch system says on the login node."""

    error: str = ""
    """It does not answer; then nothing else is known."""
    version: str = ""
    partitions: tuple[PartitionFacts, ...] = ()
    groups: tuple[NodeGroup, ...] = ()
    mpi_plugins: tuple[str, ...] = ()
    refused: str = ""
    """Its words, if it would not take a study's own job."""


@dataclass(frozen=True)
class SiteFacts:
    """All that is known of a site."""

    login: MachineFacts
    folder: FolderFacts
    has_private_network: bool | None = None
    """Whether the ports of mpirun are out of others' reach; None: the ranks run in jobs."""
    listening_error: str = ""
    """Why the driver cannot listen for its runners."""
    queue: QueueFacts | None = None
    """None: the site has no batch system."""
    job: JobFacts | None = None
    """None: none was submitted."""


@dataclass(frozen=True)
class ProbeRequest:
    """What the job is to try."""

    attempt: AttemptRequest
    """As the runner of a study gets it: launcher, layout, environment of the ranks."""
    clock_address: str = ""
    """HOST:PORT on the driver's machine; empty: there is no other machine to reach."""
    clock_token: str = ""
    """A secret: the file is for this user's eyes only."""
