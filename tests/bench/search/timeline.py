"""A search as it went: what each attempt cost, in the order in which they ended, and which scores were reached when.

Read from a study's folder, in which every attempt says when it ended; the database knows costs by trial only. Studies
that have run one trial at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.protocol.trial_dir import AttemptDir, TrialDir


@dataclass(frozen=True)
class Attempt:
    epochs: int
    score: float | None
    """The trial's, if it was complete then."""


@dataclass(frozen=True)
class Search:
    """One study: a method, with one seed."""

    method: str
    seed: int
    attempts: tuple[Attempt, ...]

    @property
    def cost(self) -> int:
        """Epochs of the whole of it."""
        return sum(attempt.epochs for attempt in self.attempts)

    def progress(self) -> Iterator[tuple[int, float]]:
        """Epochs trained, and the best score of a complete trial by then, whenever that became better."""
        spent, best = 0, 0.0
        for attempt in self.attempts:
            spent += attempt.epochs
            if attempt.score is not None and attempt.score > best:
                best = attempt.score
                yield spent, best

    @property
    def best(self) -> float:
        """Of all complete trials."""
        return max((score for _, score in self.progress()), default=0.0)

    def best_within(self, epochs: float) -> float:
        """The best score of a complete trial for so many epochs; 0 before there is one."""
        return max((score for spent, score in self.progress() if spent <= epochs), default=0.0)

    def cost_to_reach(self, score: float) -> int | None:
        """Epochs trained until a complete trial was as good as that; None if none ever was."""
        return next((spent for spent, best in self.progress() if best >= score), None)


def read_search(folder: Path, epochs: int) -> Search:
    """The study in a folder METHOD-SEED.

    Args:
        epochs: Of a whole trial.

    Raises:
        ValueError: The folder's name has no seed, or there are no ended attempts.
    """
    method, _, seed = folder.name.rpartition("-")
    if not seed.isdecimal():
        raise ValueError(f"{folder.name!r} is not METHOD-SEED, such as asha-0.")
    attempts = [attempt for trial in sorted((folder / "trials").iterdir()) for attempt in TrialDir(trial).attempts()]
    ended = sorted((at, _attempt(attempt, epochs)) for attempt in attempts if (at := _ended_at(attempt)) is not None)
    if not ended:
        raise ValueError(f"{folder} has no attempt that has ended; run the study first.")
    return Search(method, int(seed), tuple(attempt for _, attempt in ended))


def _attempt(directory: AttemptDir, epochs: int) -> Attempt:
    trained = directory.read_metrics()
    is_complete = bool(trained) and trained[-1].epoch + 1 == epochs
    return Attempt(len(trained), trained[-1].f1_micro if is_complete else None)


def _ended_at(directory: AttemptDir) -> float | None:
    end = directory.path / "end.json"
    return end.stat().st_mtime if end.is_file() else None
