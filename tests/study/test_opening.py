"""A study is opened only if its rows, its config and its folder belong together."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from storage.database import schema
from storage.database.endpoint import open_storage, parse_public_url
from storage.protocol.codec import to_json
from storage.protocol.records import spec_sha256
from storage.protocol.trial_dir import TrialDir
from study.config import StudyConfig
from study.opening import StudyMismatchError, bind_folder, open_study, retry_failed
from study.plan import StudyPlan
from tests.study.fakes import new_plan


@dataclass
class Opening:
    """A study's database and folder, opened as a driver does."""

    place: Path
    storage: RDBStorage
    plan: StudyPlan
    said: list[str] = field(default_factory=list)

    def open(self, plan: StudyPlan | None = None) -> optuna.Study:
        return open_study(self.storage, plan or self.plan, optuna.samplers.RandomSampler(seed=0))

    def bind(self, folder: Path | None = None, adopt: bool = False, database_dir: Path | None = None) -> str:
        return bind_folder(self.open(), folder or self.plan.folder, database_dir, adopt, self.said.append)

    def begin_trial(self, seed: int = 0) -> TrialDir:
        """A trial that is asked for and has its folder, as the loop makes it."""
        study = self.open()
        number = study.ask().number
        spec = self.plan.spec(number, {"learning_rate": 0.1 + seed}, study.user_attrs[schema.STUDY_UUID])
        trial = TrialDir(self.plan.trial_path(number))
        trial.create(spec)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        self.storage.set_trial_user_attr(trial_id, schema.SPEC_SHA256, spec_sha256(to_json(spec)))
        return trial

    def lose_database(self) -> Opening:
        """The same place, with a new database."""
        return Opening(self.place, new_storage(self.place / "new.db"), self.plan)


def new_storage(path: Path) -> RDBStorage:
    return open_storage(parse_public_url(f"sqlite:///{path}", ""))


@pytest.fixture
def opening(tmp_path) -> Opening:
    return Opening(tmp_path, new_storage(tmp_path / "study.db"), new_plan(tmp_path))


# The rows and the config.


def test_a_study_is_created_with_what_it_searches_and_found_again(opening):
    created = opening.open()

    assert created.user_attrs[schema.STUDY_CONFIG] == opening.plan.identity()
    assert created.direction.name == "MAXIMIZE"
    assert created.metric_names == ["f1_micro"]
    assert opening.open().study_name == created.study_name


def test_the_whole_config_is_that_of_the_last_driver_and_names_places_that_do_not_depend_on_its_folder(opening):
    opening.open()

    study = opening.open(new_plan(opening.place, "study.trials=9", "study.cache_dir='kept'"))

    full = study.user_attrs[schema.FULL_CONFIG]
    assert full["study"]["trials"] == 9
    assert full["study"]["cache_dir"] == str(Path.cwd() / "kept")
    assert StudyConfig.from_tables(full).identity() == opening.plan.config.identity()


def test_further_attributes_are_those_of_a_new_study_alone(opening):
    sampler = optuna.samplers.RandomSampler()

    created = open_study(opening.storage, opening.plan, sampler, {"of": "the first"})
    again = open_study(opening.storage, opening.plan, sampler, {"of": "the second"})

    assert created.user_attrs["of"] == again.user_attrs["of"] == "the first"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("training.epochs=3", "training.epochs is 2 in the database, 3 now"),
        ("study.objective='f1_macro'", "study.objective is 'f1_micro' in the database, 'f1_macro' now"),
        (
            "search_space.optimizer.learning_rate.high=0.5",
            "search_space.optimizer.learning_rate.high is 1.0 in the database, 0.5 now",
        ),
        (
            "search_space.optimizer.momentum={type='float',low=0.0,high=0.5}",
            "search_space.optimizer.momentum is None in the database, {",
        ),
        ("model.width=8", "model.width is 4 in the database, 8 now"),
    ],
)
def test_a_study_that_searches_something_else_is_refused_with_each_difference(opening, tmp_path, change, said):
    opening.open()

    with pytest.raises(StudyMismatchError) as refused:
        opening.open(new_plan(tmp_path, change))

    assert said in str(refused.value)


def test_a_study_that_is_older_than_a_setting_was_run_with_its_default(opening, tmp_path):
    study = opening.open()
    identity = json.loads(json.dumps(opening.plan.identity()))
    del identity["training"]["deterministic"]
    study.set_user_attr(schema.STUDY_CONFIG, identity)

    opening.open()
    with pytest.raises(StudyMismatchError, match=r"training\.deterministic is False in the database, True now"):
        opening.open(new_plan(tmp_path, "training.deterministic=true"))


def test_a_study_that_somebody_else_made_is_refused(opening):
    optuna.create_study(storage=opening.storage, study_name="small", direction="maximize").ask()

    with pytest.raises(StudyMismatchError, match="Switchyard did not make"):
        opening.open()


def test_a_study_whose_driver_died_while_creating_it_is_taken_over(opening):
    optuna.create_study(storage=opening.storage, study_name="small", direction="maximize")

    assert opening.open().user_attrs[schema.STUDY_CONFIG] == opening.plan.identity()


def test_an_empty_study_that_minimises_is_not_taken_over(opening):
    optuna.create_study(storage=opening.storage, study_name="small", direction="minimize")

    with pytest.raises(StudyMismatchError, match="Switchyard did not make"):
        opening.open()


# The rows and the folder.


def test_a_study_and_its_folder_have_one_uuid(opening):
    uuid = opening.bind()

    assert opening.open().user_attrs[schema.STUDY_UUID] == uuid
    assert json.loads((opening.plan.folder / "study.json").read_text())["study_uuid"] == uuid
    assert opening.bind() == uuid


def test_a_driver_that_died_between_folder_and_database_is_followed_by_one_that_ties_them(opening):
    uuid = opening.bind()
    study = opening.open()
    opening.storage.set_study_user_attr(study._study_id, schema.STUDY_UUID, None)

    assert opening.bind() == uuid


def test_a_new_database_does_not_believe_the_trials_of_an_older_one(opening):
    uuid = opening.bind()
    opening.begin_trial()

    with pytest.raises(StudyMismatchError) as refused:
        opening.lose_database().bind()

    for words in (uuid, "a new one", "Move the folder away", "--adopt"):
        assert words in str(refused.value)


def test_both_studies_are_named_when_two_meet_in_one_folder(opening):
    first = opening.bind()
    opening.begin_trial()
    other = opening.lose_database()
    moved = opening.plan.folder.rename(opening.place / "moved")
    second = other.bind()
    other.begin_trial()
    opening.plan.folder.rename(opening.place / "second")
    moved.rename(opening.plan.folder)

    with pytest.raises(StudyMismatchError) as refused:
        other.bind()

    assert first in str(refused.value)
    assert second in str(refused.value)


def test_adopting_gives_the_database_the_folders_uuid(opening):
    uuid = opening.bind()
    opening.begin_trial()
    other = opening.lose_database()

    assert other.bind(adopt=True) == uuid
    assert uuid in other.said[0]
    other_study = other.open()
    assert other_study.user_attrs[schema.STUDY_UUID] == uuid


def test_moving_the_folder_away_lets_a_new_database_begin_anew(opening):
    uuid = opening.bind()
    opening.begin_trial()
    opening.plan.folder.rename(opening.place / "moved")

    assert opening.lose_database().bind() != uuid


def test_a_database_that_was_restored_from_an_older_copy_knows_fewer_trials_than_the_folder(opening):
    opening.bind()
    opening.begin_trial()
    ghost = TrialDir(opening.plan.trial_path(1))
    ghost.create(opening.plan.spec(1, {"learning_rate": 0.5}, ""))

    with pytest.raises(StudyMismatchError, match=r"holds trial 1, of which this database knows nothing.*--adopt"):
        opening.bind()
    opening.bind(adopt=True)


def test_a_folder_whose_specification_is_not_the_databases_is_refused_naming_both(opening):
    opening.bind()
    trial = opening.begin_trial()
    expected = trial.spec_sha256()
    spec = json.loads((trial.path / "spec.json").read_text())
    (trial.path / "spec.json").write_text(json.dumps(spec | {"seed": 12345}))

    with pytest.raises(StudyMismatchError) as refused:
        opening.bind()

    assert expected[:12] in str(refused.value)
    assert trial.spec_sha256()[:12] in str(refused.value)


def test_begun_trials_whose_files_are_away_are_not_started_over_unasked(opening):
    opening.bind()
    opening.begin_trial()
    opening.plan.folder.rename(opening.place / "purged")

    with pytest.raises(StudyMismatchError, match=r"has begun trial 0, whose files are not in .*--adopt"):
        opening.bind()
    opening.bind(adopt=True)


def test_trials_without_a_word_whose_they_are_are_not_believed(opening):
    opening.bind()
    opening.begin_trial()
    (opening.plan.folder / "study.json").unlink()

    with pytest.raises(StudyMismatchError, match=r"holds trials and no study\.json"):
        opening.bind()


def test_a_damaged_marker_is_one_error_with_its_path(opening):
    opening.bind()
    (opening.plan.folder / "study.json").write_text("{")

    with pytest.raises(StudyMismatchError, match=r"study\.json is damaged"):
        opening.bind()


def test_a_study_is_refused_from_another_folder_as_long_as_its_own_exists(opening):
    here, elsewhere = opening.plan.folder, opening.place / "elsewhere" / "small"

    opening.bind(here)
    with pytest.raises(StudyMismatchError, match=f"are in {here}, not in {elsewhere}.*study.runs_dir={here.parent}"):
        opening.bind(elsewhere)
    here.parent.rename(elsewhere.parent)
    opening.bind(elsewhere)

    assert opening.open().user_attrs[schema.STUDY_DIR] == str(elsewhere)


def test_a_folder_may_have_several_names(opening):
    here, mounted = opening.plan.folder, opening.place / "mounted"
    opening.bind(here)
    opening.open().set_user_attr(schema.STUDY_DIR, str(mounted))
    mounted.symlink_to(here)

    opening.bind(here)

    assert opening.open().user_attrs[schema.STUDY_DIR] == str(here)


def test_a_folder_that_is_copied_with_its_database_is_a_study_of_its_own(opening):
    original, copy = opening.place / "runs" / "small", opening.place / "copy" / "small"
    uuid = opening.bind(original, database_dir=original)
    copy.mkdir(parents=True)
    (copy / "study.json").write_bytes((original / "study.json").read_bytes())

    assert opening.bind(copy, database_dir=copy) == uuid
    assert opening.open().user_attrs[schema.STUDY_DIR] == "."


# Failed trials.


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_failed_trials_are_opened_again_with_their_numbers_and_parameters(tmp_path, request, database):
    if database == "postgresql":
        postgres = request.getfixturevalue("postgres")
        url = postgres.create_database("retry")
        url = url.replace("postgresql://ada@", f"postgresql+psycopg://ada:{postgres.password}@")
        storage = RDBStorage(url)
    else:
        storage = new_storage(tmp_path / "study.db")
    opening = Opening(tmp_path, storage, new_plan(tmp_path))
    study = opening.open()
    trials = [study.ask({"lr": optuna.distributions.FloatDistribution(0, 1)}) for _ in range(3)]
    trials[1].set_user_attr(schema.ATTEMPTS, [{"end": "crashed", "exit_code": 1, "wall_s": 1.0}] * 2)
    study.tell(trials[0], 0.5)
    study.tell(trials[1], state=TrialState.FAIL)

    study = opening.open()
    assert retry_failed(storage, study) == [1]

    study = opening.open()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]
    assert study.trials[1].params == trials[1].params
    assert study.trials[1].user_attrs[schema.FORGIVEN_ATTEMPTS] == 2
    study.tell(1, 0.25)
    assert study.trials[1].value == 0.25
