"""Nodes per rung: what a config may say, and what follows from it for a trial's layouts and specification."""

from __future__ import annotations

import json

import pytest

from storage.protocol.codec import to_json, to_plain
from storage.protocol.records import BatchScaling, RankGrowth, TrialSpec, spec_sha256
from study.config import ConfigError, load_config
from study.plan import StudyPlan
from study.resources import ResourcesError
from tests.study.fakes import new_plan
from tests.study.small_study import write_config

PROMOTES = ("training.epochs=9", "pruner.name=asha", "pruner.rungs=[1, 3]", "pruner.promotes=true")
GROWS = (*PROMOTES, "resources.nodes_per_rung=[1, 2, 4]")


def spec_of(plan: StudyPlan) -> TrialSpec:
    return plan.spec(0, dict.fromkeys(plan.config.search_space.parameters(), 0.1), "uuid")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("resources.nodes_per_rung=[1, 2]",),
            "is for trials that are promoted, and pruner.name='none' promotes none; set pruner.name='asha' and "
            "pruner.promotes=true",
        ),
        ((*PROMOTES, "pruner.promotes=false", "resources.nodes_per_rung=[1, 2]"), "pruner.name='asha' promotes none"),
        ((*PROMOTES, "resources.nodes_per_rung=[2, 1]"), "none below the one before, as [1, 2, 4]"),
        ((*PROMOTES, "resources.nodes_per_rung=[0, 1]"), "take numbers from 1 on"),
        (
            (*PROMOTES, "resources.nodes_per_rung=[1, 2, 4, 8]"),
            "has 4 numbers, and a trial passes 2 rungs, after 1, 3 epochs; take 1 to 3 numbers",
        ),
        (
            (*PROMOTES, "pruner.grace_epochs=2", "resources.nodes_per_rung=[1, 2]"),
            "the batch grows after 1 epochs, and pruner.grace_epochs=2 leaves no verdict at the rung after 3; "
            "set it to 1 at most",
        ),
        ((*PROMOTES, "resources.batch=global"), "nodes_per_rung is not set; set it, too"),
        ((*GROWS, "resources.batch=twice"), "'per_rank' or 'global'"),
        ((*GROWS, "resources.nodes=2"), "valid keys are nodes_per_rung, batch"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(tmp_path, overrides, words):
    with pytest.raises(ConfigError) as refused:
        load_config(write_config(tmp_path), list(overrides))

    assert words in str(refused.value)


def test_more_nodes_than_the_site_gives_are_refused_with_the_most_that_there_are(tmp_path):
    with pytest.raises(ResourcesError, match=r"asks for 4 nodes at once, and site 'local' gives a study 3:.* most 3,"):
        new_plan(tmp_path, *GROWS, at_once=3)


def test_a_trial_has_the_nodes_of_its_rung(tmp_path):
    plan = new_plan(tmp_path, *GROWS, at_once=4)

    layouts = [plan.layout_at(done) for done in range(9)]

    # On one machine, a node is two ranks here.
    assert [layout.world_size for layout in layouts] == [2, 4, 4, 8, 8, 8, 8, 8, 8]
    assert [plan.site.nodes_of(layout) for layout in layouts[::3]] == [1, 4, 4]
    assert {layout.cpus_per_rank for layout in layouts} == {1}
    assert plan.request(0, 3, 60.0, epochs_done=3).layout == layouts[3]


def test_more_trials_begin_at_once_than_are_trained_to_the_end_at_once(tmp_path):
    plan = new_plan(tmp_path, *PROMOTES, "resources.nodes_per_rung=[1, 3]", at_once=3)

    assert (plan.slots, plan.ranks_at_once) == (3, 6)
    assert new_plan(tmp_path, *PROMOTES, "resources.nodes_per_rung=[2, 3]", at_once=3).ranks_at_once == 6


def test_the_specification_says_which_epochs_take_how_many_ranks_and_what_batch_that_is(tmp_path):
    grows, keeps = (spec_of(new_plan(tmp_path, *GROWS, *more, at_once=4)) for more in ((), ("resources.batch=global",)))

    assert grows.growth == keeps.growth == (RankGrowth(1, 4), RankGrowth(3, 8))
    assert [grows.world_size_at(epoch) for epoch in range(5)] == [2, 4, 4, 8, 8]
    assert [grows.scaled_batch(16, ranks) for ranks in grows.world_sizes] == [16, 32, 64]
    assert [keeps.scaled_batch(16, ranks) for ranks in keeps.world_sizes] == [16, 16, 16]
    assert spec_sha256(to_json(grows)) != spec_sha256(to_json(keeps))


def test_rungs_at_which_the_nodes_stay_are_passed_without_a_stop(tmp_path):
    plan = new_plan(tmp_path, *PROMOTES, "resources.nodes_per_rung=[1, 1, 2]", at_once=2)

    assert plan.growth == (RankGrowth(3, 4),)


def test_specifications_of_studies_that_do_not_use_it_are_what_they_were(tmp_path):
    spec = spec_of(new_plan(tmp_path, *PROMOTES))
    older = {name: value for name, value in to_plain(spec).items() if name not in ("growth", "batch_scaling")}

    assert (spec.growth, spec.batch_scaling) == ((), BatchScaling.PER_RANK)
    assert spec_sha256(json.dumps(older)) == spec_sha256(to_json(spec))


def test_it_is_part_of_what_a_study_is_and_older_studies_had_none_of_it(tmp_path):
    without, grown = new_plan(tmp_path, *PROMOTES), new_plan(tmp_path, *GROWS, at_once=4)

    assert grown.identity() != without.identity()
    assert without.identity()["resources"] == without.config.identity_defaults()["resources"]
