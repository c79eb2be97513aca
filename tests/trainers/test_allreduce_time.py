"""What a link carries is timed without what every allreduce takes, however much it carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import tensorflow as tf

from storage.protocol.gpu_check import AllreduceFacts, StepProgram
from storage.protocol.records import Precision
from tests.trainers.tiny_trial import tiny_spec
from trainers import components
from trainers.gpu_check import allreduce_time

MIB = 2**20
PROGRAM = StepProgram(Precision.FLOAT32, jit=False, fused=True)


@dataclass
class Link:
    """Carries gradients at a rate, after a latency, by a clock of its own."""

    latency_s: float
    mib_per_s: float
    taken_s: float = 0.0

    def broadcast(self, value: bool) -> bool:
        return value

    def average_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        mib = sum(gradient.shape.num_elements() for gradient in gradients) * tf.float32.size / MIB
        self.taken_s = self.latency_s + mib / self.mib_per_s
        return list(gradients)


@pytest.fixture(autouse=True)
def clock_of_the_link(monkeypatch):
    def time_calls(call: Callable[[], tf.Tensor], link: Link) -> tuple[float, list[float]]:
        call()
        return link.taken_s, [link.taken_s] * 3

    monkeypatch.setattr(allreduce_time, "time_calls", time_calls)


def measured(link: Link, folder: Path) -> AllreduceFacts:
    spec = tiny_spec()
    dataset = components.build("datasets", spec.dataset, folder)
    return allreduce_time.measure_allreduce(PROGRAM, spec, dataset, link)


def rate(facts: AllreduceFacts) -> float:
    return facts.bulk_bytes / MIB / facts.bulk_s


def test_of_a_fast_link_the_difference_of_two_sizes_is_taken(tmp_path):
    facts = measured(Link(latency_s=0.02, mib_per_s=4000.0), tmp_path)

    assert facts.bulk_bytes == 448 * MIB
    # Of 64 MiB alone it would be 1,778.
    assert rate(facts) == pytest.approx(4000.0)


def test_of_a_slow_link_one_size_is_enough(tmp_path):
    facts = measured(Link(latency_s=0.02, mib_per_s=640.0), tmp_path)

    assert facts.bulk_bytes == 64 * MIB
    assert facts.bulk_s == pytest.approx(0.12)
