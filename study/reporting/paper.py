"""What the paper reports: Aach et al., IGARSS 2022, table 1 and section 4.1."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Aach et al., IGARSS 2022, table 1"
NODES = 24
"""Held at once: six trials of four nodes. Node-hours are these times the total runtime."""


@dataclass(frozen=True)
class PaperArm:
    """A row of table 1: the best of 24 configurations, validation split, last of 100 epochs, one seed each."""

    batch_sizes: tuple[int, ...]
    total_h: float
    trial_min: float
    f1_micro: float
    f1_macro: float

    @property
    def node_hours(self) -> float:
        return NODES * self.total_h


CONSTANT = PaperArm((512,), total_h=27, trial_min=355, f1_micro=0.78, f1_macro=0.72)
SWITCHED = PaperArm((512, 16_384), total_h=10, trial_min=136, f1_micro=0.78, f1_macro=0.70)
