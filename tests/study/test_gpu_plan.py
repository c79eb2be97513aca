"""What is measured of which study: the paper's by default, with its data or without."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from cluster.profile import load_site
from storage.protocol.gpu_check import ALLREDUCE, INPUT, RANKS, StepProgram
from storage.protocol.records import Precision
from study.gpu_plan import plan_check, read_config, reduced, step_programs
from tests.study.forecast.measured_trials import LARGE, SMALL, SWITCHED, paper_plan


def test_the_paper_is_the_default_with_its_samples_a_rank_and_generated_patches_where_its_data_are_not():
    chosen = read_config(None, [], load_site("local"))

    assert chosen.config.batch_policy.options["small_global_batch_size"] == 2 * 32
    assert chosen.config.batch_policy.options["large_global_batch_size"] == 2 * 1024
    assert chosen.config.dataset.name == "synthetic_bigearthnet"
    assert "SHARDS" in chosen.lacks_data


def test_data_that_are_there_are_taken(tmp_path: Path):
    chosen = read_config(None, [f"dataset.path={tmp_path}"], load_site("jureca-dc"))

    assert chosen.config.dataset.name == "bigearthnet"
    assert chosen.lacks_data == ""
    sizes = chosen.config.batch_policy.options
    assert (sizes["small_global_batch_size"], sizes["large_global_batch_size"]) == (SMALL, LARGE)


def test_on_gpus_every_form_is_measured_the_studys_own_first_and_the_input_without_what_a_node_keeps(tmp_path: Path):
    plan = paper_plan(tmp_path, "training.precision=bfloat16")

    measured = plan_check(plan, "", [SWITCHED], limit_s=600.0, most_samples=None)

    names = measured.request.measurements
    assert names[:4] == (RANKS, ALLREDUCE, "bfloat16", INPUT)
    assert len(set(names)) == 3 + 12
    # Ranks are started anew whenever the precision changes.
    precisions = [measured.request.precision_of(name) for name in names]
    assert sum(one != other for one, other in pairwise(precisions)) == 4
    assert measured.request.local_batch_sizes == (32, 1024)
    assert "node_cache" not in measured.spec.dataset.options
    # Each option at its upper end: a step with momentum and decay.
    assert measured.spec.optimizer.options["momentum"] == 0.9
    assert measured.skipped == {}


def test_batches_that_are_cut_down_are_not_computed_in_parts(tmp_path: Path):
    plan = paper_plan(tmp_path, "training.accumulation_steps=4")

    asked, cut = (plan_check(plan, "no data", [SWITCHED], 600.0, most) for most in (None, 8))

    assert (asked.spec.accumulation_steps, cut.spec.accumulation_steps) == (4, 1)
    assert cut.request.local_batch_sizes == (1, 8)
    assert INPUT not in cut.request.measurements
    assert cut.skipped == {INPUT: "no data"}


def test_without_gpus_only_the_studys_own_precision_and_float32_are_measured():
    own = StepProgram(Precision.BFLOAT16, jit=True, fused=True)

    programs, skipped = step_programs(own, has_gpus=False)

    assert [program.name for program in programs] == [
        "bfloat16-xla",
        "float32",
        "float32-xla",
        "float32-keras",
        "float32-xla-keras",
    ]
    assert "tf32" in skipped


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [((32, 1024), None, (32, 1024)), ((32, 1024), 32, (1, 32)), ((16, 64), 32, (8, 32)), ((512,), 32, (32,))],
)
def test_batches_that_are_too_large_for_a_cpu_shrink_in_proportion(sizes, most, expected):
    assert reduced(sizes, most) == expected
