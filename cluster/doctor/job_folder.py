"""The files through which login node and job talk, in one folder on the shared file system."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cluster.doctor.facts import JobFacts, LaunchFacts, NodeFacts, ProbeRequest, RankFacts
from storage.protocol.codec import RecordError, from_json, to_json
from storage.protocol.files import OS_FILES, write_atomically

Record = TypeVar("Record")


@dataclass(frozen=True)
class JobFolder:
    path: Path

    @property
    def begun(self) -> Path:
        """Made by the first line of the job's script."""
        return self.path / "begun"

    @property
    def has_environment(self) -> Path:
        """Made after the last line of the prologue."""
        return self.path / "has-environment"

    def write_request(self, request: ProbeRequest) -> None:
        write_atomically(self.path / "request.json", to_json(request).encode())

    def read_request(self) -> ProbeRequest:
        return from_json(ProbeRequest, (self.path / "request.json").read_text())

    def claim_node(self, host: str) -> bool:
        """Whether this process is the first one to look at this node."""
        return OS_FILES.create(self.path / f"claim-{host}", b"")

    def write_node(self, facts: NodeFacts) -> None:
        write_atomically(self.path / f"node-{facts.machine.host}.json", to_json(facts).encode())

    def write_rank(self, facts: RankFacts) -> None:
        # Ranks that did not find one another all have number 0.
        name = f"rank-{facts.rank:06d}-{facts.host}"
        if not OS_FILES.create(self.path / f"claim-{name}", b""):
            return
        write_atomically(self.path / f"{name}.json", to_json(facts).encode())

    def write_launch(self, facts: LaunchFacts) -> None:
        write_atomically(self.path / "launch.json", to_json(facts).encode())

    def collect(self, job: JobFacts) -> JobFacts:
        """What is known of the job, and what it has left here."""
        return replace(
            job,
            has_begun=self.begun.exists(),
            has_environment=self.has_environment.exists(),
            nodes=tuple(self._read_all(NodeFacts, "node-*.json")),
            ranks=tuple(self._read_all(RankFacts, "rank-*.json")),
            launch=self.launch(),
        )

    def launch(self) -> LaunchFacts | None:
        """None until the job is done."""
        return next(iter(self._read_all(LaunchFacts, "launch.json")), None)

    def _read_all(self, kind: type[Record], pattern: str) -> list[Record]:
        records = []
        for path in sorted(self.path.glob(pattern)):
            with suppress(OSError, RecordError):
                records.append(from_json(kind, path.read_text()))
        return records
