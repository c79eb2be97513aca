"""The tables of docs/performance_model.md, computed: `python -m tests.study.forecast.published` prints them.

Each number that goes in has its source beside it. [judged] is an estimate that nothing measured; the first run on GPUs
is to replace it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from study.forecast.performance_model import Placement, UpdateCosts, allreduce_s, update_s

# The paper (Aach et al. 2022), table 1 and section 3.4, and BigEarthNet-19's split.
CONSTANT_TRIAL_S, SWITCHED_TRIAL_S = 355 * 60, 136 * 60
EPOCHS, SWITCH = 100, 20
TRAIN, VAL = 269_695, 123_723
RANKS, NODES = 16, 4
SMALL, LARGE = 32, 1024
"""Samples of an update on one rank."""
TRIALS, AT_ONCE = 24, 6

GRADIENT_BYTES = 4 * 4_034_479
"""EfficientNet-B0 for 12 bands and 19 classes: trainable variables in float32, in 213 tensors. Counted in Keras."""
SAMPLE_BYTES = 160_000
"""A patch at native resolution: 4 bands of 120 x 120, 6 of 60 x 60 and 2 of 20 x 20 pixels, uint16."""

_PIXELS = (120 / 224) ** 2
"""Of the paper's images over ImageNet's. That time goes with them is [judged]: small images use a GPU less well."""
# NVIDIA DeepLearningExamples, TensorFlow2/Classification/ConvNets/efficientnet_v1/README.md, "Training performance
# results for EfficientNet v1-B0": images/s of one GPU at 224 x 224 pixels.
_TF32_A100_S = _PIXELS / 1209
_FLOAT32_V100_S = _PIXELS / 752
"""An A100 is no slower than the V100 before it."""
_MIXED_A100_S = _PIXELS / 3454
# The same page, "Inference performance": latency of batch 1, where starting kernels is all that there is.
_FORWARD_START_S = 7.88e-3
_UNCOMPILED_S = 3 * _FORWARD_START_S
"""[judged] Forward, and twice as much backward."""
_UNFUSED = (8360 + 2785) / (5156 + 1286)
"""Operations of a step with Keras' own batch normalisation and SGD over those with fused ones; traced here."""
# [judged] XLA starts two to four times fewer kernels.
_COMPILED_S = (_UNCOMPILED_S / 4, _UNCOMPILED_S / 2)
# NVIDIA/nccl-tests#119: 84.8 GB/s over four HDR cards. [judged] A node of the paper's machine has one or two.
_CARD_BYTES_PER_S = 84.8e9 / 4
# NVIDIA/nccl-tests#182: 47 microseconds for a few bytes; of 2 log2(16) rounds.
_ROUND_S = 47e-6 / 8
_STALL_S = (1e-3, 5e-3)
"""Horovod's cycle (1 ms, horovod#2468), and its wait on the host unless completion is asynchronous [judged]."""


_PAPERS = Placement(RANKS, NODES)


@dataclass(frozen=True)
class Scenario:
    """Costs at their best and at their worst."""

    name: str
    best: UpdateCosts
    worst: UpdateCosts

    def over(self, value: Callable[[UpdateCosts], float]) -> tuple[float, float]:
        """Lowest and highest."""
        ends = value(self.best), value(self.worst)
        return min(ends), max(ends)


def paper_costs() -> tuple[float, float]:
    """Seconds that the paper's updates took beside their samples, and seconds per sample at the most.

    An epoch of either phase sees the same samples and the same evaluation, so that the difference between the two is
    one of updates alone. Algorithm 1 cuts each of 17 loader batches, the short last one too, into 32 parts.
    """
    small_s = CONSTANT_TRIAL_S / EPOCHS
    large_s = (SWITCHED_TRIAL_S - SWITCH * small_s) / (EPOCHS - SWITCH)
    large_updates = -(-TRAIN // (RANKS * LARGE))
    small_updates = large_updates * LARGE // SMALL
    update_beside_samples_s = (small_s - large_s) / (small_updates - large_updates)
    per_sample_s = (large_s - large_updates * update_beside_samples_s) / (TRAIN / RANKS)
    return update_beside_samples_s, per_sample_s


def scenarios() -> list[Scenario]:
    beside_s, per_sample_s = paper_costs()
    paper = UpdateCosts(0.0, per_sample_s, 0.0, beside_s / (2 * (RANKS - 1) / RANKS))
    fast = UpdateCosts(0.0, 0.0, _ROUND_S, GRADIENT_BYTES / (2 * _CARD_BYTES_PER_S))
    slow = replace(fast, transfer_s=GRADIENT_BYTES / _CARD_BYTES_PER_S)

    def with_nccl(name: str, fixed_s: tuple[float, float], sample_s: tuple[float, float]) -> Scenario:
        best = replace(fast, fixed_s=fixed_s[0] + _STALL_S[0], per_sample_s=sample_s[0])
        return Scenario(name, best, replace(slow, fixed_s=fixed_s[1] + _STALL_S[1], per_sample_s=sample_s[1]))

    uncompiled = (_UNCOMPILED_S / 1.5, _UNCOMPILED_S)
    sample_s = (_TF32_A100_S, _FLOAT32_V100_S)
    return [
        Scenario("the paper's times: all beside the samples is Gloo's", paper, paper),
        with_nccl("NCCL, the rest as the paper's", (_UNCOMPILED_S, _UNFUSED * _UNCOMPILED_S), (per_sample_s,) * 2),
        with_nccl("NCCL, fused kernels, data in memory", uncompiled, sample_s),
        with_nccl("the same, compiled (XLA)", _COMPILED_S, sample_s),
        with_nccl("the same, compiled, bfloat16", _COMPILED_S, (_MIXED_A100_S, 2 * _MIXED_A100_S)),
    ]


def rate(costs: UpdateCosts, local_batch_size: int, placement: Placement = _PAPERS) -> float:
    """Images per second and GPU."""
    return local_batch_size / update_s(costs, placement, local_batch_size)


def switch_factor(costs: UpdateCosts) -> float:
    return rate(costs, LARGE) / rate(costs, SMALL)


def trial_s(costs: UpdateCosts, small_epochs: int) -> float:
    """Of 100 epochs, evaluation included (a third of a training sample's time each), starts excluded."""
    samples = TRAIN / RANKS
    epochs = {SMALL: small_epochs, LARGE: EPOCHS - small_epochs}
    training_s = sum(count * samples / rate(costs, size) for size, count in epochs.items())
    return training_s + EPOCHS * VAL / RANKS * costs.per_sample_s / 3


def scenarios_table() -> str:
    rows = []
    for scenario in scenarios():
        is_paper = scenario.best == scenario.worst
        hours = [
            scenario.over(lambda costs, small=small: TRIALS * NODES * trial_s(costs, small) / 3600)  # type: ignore[misc]
            for small in (EPOCHS, SWITCH)
        ]
        if is_paper:
            # As they were: its samples' time holds the evaluation already.
            hours = [(TRIALS * NODES * seconds / 3600,) * 2 for seconds in (CONSTANT_TRIAL_S, SWITCHED_TRIAL_S)]
        cells = [
            _range(scenario.over(partial(rate, local_batch_size=SMALL))),
            _range(scenario.over(partial(rate, local_batch_size=LARGE))),
            _range(scenario.over(switch_factor), digits=1),
            *map(_range, hours),
        ]
        rows.append([scenario.name, *cells])
    heading = ["", "images/s a GPU at 32", "at 1,024", "factor", "node-hours, constant", "node-hours, switched"]
    return _table(heading, rows)


def paper_table() -> str:
    beside_s, per_sample_s = paper_costs()
    carried = 2 * (RANKS - 1) / RANKS * GRADIENT_BYTES
    small_share = beside_s / (beside_s + SMALL * per_sample_s)
    rounds = -(-TRIALS // AT_ONCE)
    return _table(
        ["of the paper's epochs follows", ""],
        [
            ["an update beside its samples, ms", f"{1e3 * beside_s:.0f}"],
            ["its share of an update of 32", f"{small_share:.0%}"],
            ["its share of an update of 1,024", f"{beside_s / (beside_s + LARGE * per_sample_s):.0%}"],
            ["a link's rate if the allreduce is all of it, MB/s", f"{carried / beside_s / 1e6:.0f}"],
            ["a sample, ms, at the most", f"{1e3 * per_sample_s:.2f}"],
            ["images/s a GPU without anything beside samples", f"{1 / per_sample_s:.0f}"],
            ["the same on an A100 by itself, TF32", f"{1 / _TF32_A100_S:,.0f}"],
            ["hours of 4 rounds of 6 trials, constant; the paper: 27", f"{rounds * CONSTANT_TRIAL_S / 3600:.1f}"],
            ["hours of 4 rounds of 6 trials, switched; the paper: 10", f"{rounds * SWITCHED_TRIAL_S / 3600:.1f}"],
        ],
    )


def scaling_table() -> str:
    """From 16 to 1,024 GPUs with the compiled step at its worst, four a node."""
    costs = next(scenario for scenario in scenarios() if scenario.name.endswith("(XLA)")).worst
    rows = []
    for ranks in (16, 64, 256, 1024):
        place = Placement(ranks, ranks // 4)
        cells = [f"{ranks:,}"]
        for size in (SMALL, LARGE):
            ring_s = allreduce_s(costs, place) + (2 * (ranks - 1) - 2 * (ranks - 1).bit_length()) * costs.latency_s
            shares = (
                allreduce_s(costs, place) / update_s(costs, place, size),
                ring_s / (update_s(costs, place, size) - allreduce_s(costs, place) + ring_s),
            )
            cells += [f"{shares[0]:.0%} / {shares[1]:.0%}", f"{TRAIN // ranks // size:,}"]
        demand = [ranks * rate(costs, size, place) * SAMPLE_BYTES / 1e9 for size in (SMALL, LARGE)]
        # The global batch of the paper, whatever the ranks.
        split = RANKS * LARGE // ranks
        faster = ranks * rate(costs, split, place) / (RANKS * rate(costs, LARGE))
        rows.append([*cells, f"{demand[0]:.0f} / {demand[1]:.0f}", f"{faster:.1f} of {ranks // RANKS}"])
    heading = [
        "GPUs",
        "allreduce at 32, tree / ring",
        "updates an epoch",
        "allreduce at 1,024",
        "updates an epoch",
        "input GB/s at 32 / 1,024",
        "faster at 16,384 in all",
    ]
    return _table(heading, rows)


TABLES: dict[str, Callable[[], str]] = {
    "paper": paper_table,
    "scenarios": scenarios_table,
    "scaling": scaling_table,
}


def _range(ends: tuple[float, float], digits: int = 0) -> str:
    low, high = (f"{_rounded(value, digits):,.{digits}f}" for value in ends)
    return low if low == high else f"{low} to {high}"


def _rounded(value: float, digits: int) -> float:
    """Two significant digits, or three where the first one is 1 and nothing is behind the point."""
    return round(value, digits) if digits else float(f"{value:.{3 if f'{value:e}'.startswith('1') else 2}g}")


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    for name, table in TABLES.items():
        print(f"{name}:\n\n{table()}\n")
