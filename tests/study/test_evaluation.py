"""Which configurations are trained again and with which seeds, and what is made of their scores."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from storage.database import schema
from storage.database.endpoint import open_storage, parse_public_url
from storage.protocol.codec import to_plain
from storage.protocol.records import TrialSpec
from storage.protocol.trial_dir import TrialDir
from study.config import ConfigError
from study.evaluation import EvaluationError, Wishes, begin, candidates, go_on, scores_of
from study.evaluation_tables import scores_tables
from study.opening import open_study
from study.plan import StudyPlan
from study.samplers import sampler_of
from study.seeds import derive_seed
from tests.study.fakes import new_plan

SEED = 7
"""Of the small study."""


def trial(rate: float, value: float | None, outcome: str = "completed", **attributes) -> FrozenTrial:
    is_complete = outcome in ("completed", "diverged")
    return create_trial(
        state=TrialState.COMPLETE if is_complete else TrialState.FAIL,
        value=value if is_complete else None,
        params={"learning_rate": rate},
        distributions={"learning_rate": FloatDistribution(1e-3, 1.0, log=True)},
        user_attrs={"outcome": outcome, "f1_micro": value, "f1_macro": value, **attributes},
    )


def with_scores(rate: float, validation: float, test: float) -> FrozenTrial:
    classes = {"names": ["forest", "water"], "f1": [test, test / 2]}
    scored = {"samples": 9, "loss": 0.5, "scores": {"f1_micro": test, "accuracy": test / 4}, "classes": classes}
    return trial(rate, validation, scores={"accuracy": validation / 2}, test=scored)


@dataclass
class Place:
    """A database with a search, and with what evaluates it."""

    folder: Path
    plan: StudyPlan

    def __post_init__(self) -> None:
        self.url = parse_public_url(f"sqlite:///{self.folder}/study.db", "")
        self.storage = open_storage(self.url)

    def open(self, plan: StudyPlan, **attributes) -> optuna.Study:
        return open_study(self.storage, plan, sampler_of(plan.config.study, plan.config.search_space), attributes)

    def search(self, *trials: FrozenTrial) -> optuna.Study:
        study = self.open(self.plan)
        study.set_user_attr(schema.STUDY_UUID, "u")
        study.add_trials(trials)
        return study

    def begin(self, source: optuna.Study, **wishes):
        return begin(source, self.url, "again", Wishes(**wishes), self.folder / "runs")

    def evaluation(self, source: optuna.Study, *trials: FrozenTrial, **wishes) -> optuna.Study:
        config, link = self.begin(source, **wishes)
        plan = StudyPlan.make(config, self.plan.site, 2, self.url)
        study = self.open(plan, **{schema.EVALUATES: to_plain(link)})
        study.add_trials(trials)
        return study

    def go_on(self, evaluation: optuna.Study, source: optuna.Study, **wishes):
        return go_on(evaluation, source, Wishes(**wishes), self.folder / "runs")


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path, new_plan(tmp_path))


# The choice.


def test_configurations_are_ordered_by_the_mean_over_their_repeats():
    repeated = [trial(0.1, 0.9), trial(0.1, 0.1), trial(0.2, 0.6), trial(0.2, 0.7)]

    found = candidates(repeated)

    assert [each.parameters["learning_rate"] for each in found] == [0.2, 0.1]
    assert [each.score for each in found] == pytest.approx([0.65, 0.5])


def test_a_repeat_that_diverged_counts_as_zero():
    [first, second] = candidates([trial(0.1, 0.9), trial(0.1, 0.0, "diverged"), trial(0.2, 0.6), trial(0.2, 0.5)])

    assert first.parameters == {"learning_rate": 0.2}
    assert second.score == pytest.approx(0.45)


def test_what_has_only_failed_or_diverged_is_no_candidate():
    assert candidates([trial(0.1, None, "crashed"), trial(0.2, 0.0, "diverged")]) == []


def test_of_equal_scores_the_first_tried_comes_first(place):
    study = place.search(trial(0.3, 0.5), trial(0.1, 0.5), trial(0.2, 0.5))

    assert [each.trials for each in candidates(study.trials)] == [(0,), (1,), (2,)]


# A new evaluation.


def test_each_of_the_best_gets_so_many_seeds_in_turn(place):
    source = place.search(trial(0.1, 0.5), trial(0.2, 0.8), trial(0.3, 0.6))

    config, link = place.begin(source, top=2, seeds=3)

    assert (config.study.trials, config.study.repeats) == (6, 1)
    assert config.study.configurations == ({"learning_rate": 0.2}, {"learning_rate": 0.3})
    assert (link.study_name, link.study_uuid, link.trials) == ("small", "u", [[1], [2]])
    study = place.evaluation(source, top=2, seeds=3)
    rates = [study.ask().suggest_float("learning_rate", 1e-3, 1.0, log=True) for _ in range(6)]
    assert rates == [0.2, 0.3] * 3


def test_where_there_are_fewer_configurations_than_the_default_all_are_taken(place):
    source = place.search(trial(0.1, 0.5), trial(0.2, 0.8))

    config, _ = place.begin(source)

    assert (len(config.study.configurations), config.study.trials) == (2, 10)


def test_no_training_has_a_seed_of_the_search(place):
    source = place.search(trial(0.1, 0.5))

    config, _ = place.begin(source, top=1, seeds=5)

    fresh = {derive_seed(config.study.seed, number) for number in range(config.study.trials)}
    assert len(fresh) == 5
    assert fresh.isdisjoint(derive_seed(SEED, number) for number in range(100))


def test_all_else_is_the_searchs_own_and_the_test_split_is_scored_unless_it_is_not_wanted(place):
    source = place.search(trial(0.1, 0.5))

    config, _ = place.begin(source, top=1)
    without, _ = place.begin(source, top=1, test_split=False)

    assert config.training == place.plan.config.training
    assert (config.model, config.dataset, config.search_space) == (
        place.plan.config.model,
        place.plan.config.dataset,
        place.plan.config.search_space,
    )
    assert (config.study.test_split, without.study.test_split) == (True, False)


def test_nothing_is_pruned_enqueued_or_held_to_the_searchs_budget(tmp_path):
    searched = ('pruner.name="median"', "enqueue=[{learning_rate=0.1}]", "budget.node_hours=0.01")
    searched += ("study.constraint='node_hours <= 9'", "study.warm_start=['earlier']")
    place = Place(tmp_path, new_plan(tmp_path, *searched))
    source = place.search(trial(0.1, 0.5))

    config, _ = place.begin(source, top=1)

    assert config.pruner.name == "none"
    assert config.enqueue == ()
    assert config.budget.node_hours is None
    assert config.ends_to_tell() is None
    assert (config.study.constraint, config.study.objectives, config.study.warm_start) == (None, (), ())


def test_the_data_are_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path, new_plan(tmp_path, 'dataset={name="image_folder", path="mine"}', "study.cache_dir='kept'"))
    (tmp_path / "kept").mkdir()
    source = place.search(trial(0.1, 0.5))

    monkeypatch.chdir("/")
    config, _ = place.begin(source, top=1)

    assert config.dataset.options["path"] == str(tmp_path / "mine")
    assert config.study.cache_dir == tmp_path / "kept"


def as_an_older_version_stored_it(place: Place, study: optuna.Study) -> optuna.Study:
    """Only the identity, without what has come since; a folder with a specification."""
    identity = place.plan.identity()
    del identity["study"]["objective_epoch"], identity["study"]["repeats"], identity["task"]
    study.set_user_attr(schema.STUDY_CONFIG, identity)
    study.set_user_attr(schema.FULL_CONFIG, None)
    study.set_user_attr(schema.STUDY_DIR, "runs/small")
    spec: TrialSpec = place.plan.spec(0, {"learning_rate": 0.1}, "u")
    TrialDir(place.plan.trial_path(0)).create(spec)
    return study


def test_of_an_older_study_what_its_row_lacks_is_the_default_or_in_its_trials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path, new_plan(tmp_path, 'dataset={name="image_folder", path="mine"}'))
    source = as_an_older_version_stored_it(place, place.search(trial(0.1, 0.5)))

    monkeypatch.chdir("/")
    config, _ = place.begin(source, top=1)

    assert config.dataset.options["path"] == str(tmp_path / "mine")
    assert config.task.name == "multi_label"
    assert config.training == place.plan.config.training


def test_the_study_that_is_evaluated_is_left_as_it_is(place):
    source = place.search(trial(0.1, 0.5))
    before = (source.user_attrs, source.trials)

    place.evaluation(source, top=1)

    assert (source.user_attrs, source.trials) == before


@pytest.mark.parametrize(
    ("trials", "wishes", "words"),
    [
        ([], {}, "has no completed trial yet"),
        ([trial(0.1, None, "crashed")], {}, "has no completed trial yet"),
        ([trial(0.1, 0.5), trial(0.2, 0.6)], {"top": 3}, r"--top 3: .* has 2 configuration\(s\).* from 1 to 2"),
    ],
)
def test_a_choice_that_cannot_be_made_is_one_error(place, trials, wishes, words):
    with pytest.raises(EvaluationError, match=words):
        place.begin(place.search(*trials), **wishes)


@pytest.mark.parametrize(("wishes", "words"), [({"top": 0}, "--top 0"), ({"seeds": -1}, "--seeds -1")])
def test_numbers_below_one_are_refused(wishes, words):
    with pytest.raises(EvaluationError, match=words):
        Wishes(**wishes).check()


def test_an_evaluation_is_not_evaluated(place):
    evaluation = place.evaluation(place.search(trial(0.1, 0.5)), trial(0.1, 0.6), top=1)

    with pytest.raises(EvaluationError, match="evaluates another study itself"):
        place.begin(evaluation, top=1)


def test_a_search_whose_batches_grew_with_its_nodes_is_refused_and_one_whose_batches_stayed_is_not(place):
    source = place.search(trial(0.1, 0.5))
    grown = {"nodes_per_rung": [1, 2]}
    source.set_user_attr(schema.FULL_CONFIG, place.plan.full_config() | {"resources": grown})

    with pytest.raises(EvaluationError, match=r"nodes_per_rung=\[1, 2\].*resources.batch='global'"):
        place.begin(source)

    source.set_user_attr(schema.FULL_CONFIG, place.plan.full_config() | {"resources": {**grown, "batch": "global"}})
    config, _ = place.begin(source)
    assert config.resources.nodes_per_rung == ()


def test_a_study_whose_stored_config_is_none_any_more_is_one_error(place):
    source = place.search(trial(0.1, 0.5))
    source.set_user_attr(schema.FULL_CONFIG, place.plan.full_config() | {"model": {"name": "vgg"}})

    with pytest.raises(ConfigError, match=r"study 'small' in the database: model\.name='vgg' does not exist"):
        place.begin(source, top=1)


# Going on with one.


def test_the_same_command_again_is_the_same_study(place):
    source = place.search(trial(0.1, 0.5), trial(0.2, 0.6))
    config, link = place.begin(source, top=2, seeds=2)
    evaluation = place.evaluation(source, top=2, seeds=2)

    assert place.go_on(evaluation, source, top=2, seeds=2) == (config, link)
    assert place.go_on(evaluation, source) == (config, link)


def test_more_seeds_are_more_trials_of_the_same_study(place):
    source = place.search(trial(0.1, 0.5), trial(0.2, 0.6))
    evaluation = place.evaluation(source, top=2, seeds=2)

    config, _ = place.go_on(evaluation, source, seeds=5)

    assert config.study.trials == 10
    assert config.identity() == place.begin(source, top=2, seeds=2)[0].identity()


def test_further_trials_of_the_search_that_are_no_better_change_nothing(place):
    source = place.search(trial(0.1, 0.5), trial(0.2, 0.6))
    evaluation = place.evaluation(source, top=1)

    source.add_trial(trial(0.3, 0.55))

    assert place.go_on(evaluation, source)[0].study.configurations == ({"learning_rate": 0.2},)


def test_a_search_that_has_found_something_better_meanwhile_is_one_error(place):
    source = place.search(trial(0.1, 0.5), trial(0.2, 0.6))
    evaluation = place.evaluation(source, top=1)

    source.add_trial(trial(0.3, 0.7))

    with pytest.raises(EvaluationError, match="'small' has changed since 'again' was begun: trial 2 is now among"):
        place.go_on(evaluation, source)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"top": 2}, "evaluates the best 1; --top 2 is another evaluation"),
        ({"test_split": False}, "was begun with --split test"),
    ],
)
def test_another_choice_is_another_evaluation(place, wishes, words):
    source = place.search(trial(0.1, 0.5), trial(0.2, 0.6))
    evaluation = place.evaluation(source, top=1)

    with pytest.raises(EvaluationError, match=words):
        place.go_on(evaluation, source, **wishes)


def test_a_study_of_the_same_name_is_not_the_one_that_was_evaluated(place):
    source = place.search(trial(0.1, 0.5))
    evaluation = place.evaluation(source, top=1)

    source.set_user_attr(schema.STUDY_UUID, "another")

    with pytest.raises(EvaluationError, match=r"evaluates another study than 'small' as it is now.* UUID u"):
        place.go_on(evaluation, source)


def test_a_search_of_the_evaluations_name_is_refused(place):
    source = place.search(trial(0.1, 0.5))

    with pytest.raises(EvaluationError, match="a study 'small' that is no evaluation; choose another --name"):
        place.go_on(source, source)


# What was found.


def test_scores_are_of_the_completed_seeds_and_the_others_are_counted(place):
    source = place.search(trial(0.1, 0.5), trial(0.2, 0.6))
    evaluation = place.evaluation(
        source,
        with_scores(0.2, 0.6, 0.4),
        with_scores(0.1, 0.5, 0.3),
        with_scores(0.2, 0.8, 0.6),
        trial(0.1, 0.0, "diverged"),
        trial(0.2, None, "crashed"),
        top=2,
    )

    first, second = scores_of(evaluation)

    assert (first.parameters, first.searched, first.completed) == ({"learning_rate": 0.2}, (1,), (0, 2))
    assert (first.others, second.others) == ({"crashed": 1}, {"diverged": 1})
    assert first.validation["f1_micro"].mean == pytest.approx(0.7)
    assert first.validation["accuracy"].mean == pytest.approx(0.35)
    assert first.test["f1_micro"].mean == pytest.approx(0.5)
    assert first.test_f1["water"].mean == pytest.approx(0.25)
    assert (second.count, second.validation["f1_micro"].deviation) == (1, None)


def render(place: Place, source: optuna.Study, evaluation: optuna.Study) -> str:
    console = Console(file=io.StringIO(), width=200)
    for table in scores_tables(place.go_on(evaluation, source)[0], scores_of(evaluation)):
        console.print(table)
    return console.file.getvalue()


def test_the_tables_say_split_epoch_seeds_and_how_many(place):
    source = place.search(trial(0.1, 0.5))
    evaluation = place.evaluation(source, with_scores(0.1, 0.6, 0.4), with_scores(0.1, 0.8, 0.6), top=1)

    said = render(place, source, evaluation)

    assert "validation split, last epoch" in said
    assert "test split, last epoch" in said
    assert "0.7000 ± 0.1414" in said
    assert "[-0.5706, 1.9706]" in said
    seeds = [str(derive_seed(evaluation.user_attrs[schema.STUDY_CONFIG]["study"]["seed"], n)) for n in (0, 1)]
    assert f"1: learning_rate=0.1; seeds {', '.join(seeds)}" in said
    assert "│ water  │ 0.2500 ± 0.0707" in said


def test_one_seed_has_no_interval_and_the_table_says_why(place):
    source = place.search(trial(0.1, 0.5))
    evaluation = place.evaluation(source, with_scores(0.1, 0.6, 0.4), top=1, seeds=1)

    said = render(place, source, evaluation)

    assert "±" not in said.replace("mean ± standard", "")
    assert "Of one seed there is neither deviation nor interval." in said


def test_a_search_has_no_scores_over_seeds(place):
    with pytest.raises(EvaluationError, match="'small' is a search"):
        scores_of(place.search(trial(0.1, 0.5)))
