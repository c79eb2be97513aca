"""What a config may say, and how it is told what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from study.config import CONFIGS_DIR, ConfigError, StudyConfig, load_config
from tests.study.small_study import write_config


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load_config(path, list(overrides))
    return str(refused.value)


@pytest.mark.parametrize("path", sorted(CONFIGS_DIR.glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_that_comes_along_loads(path):
    assert isinstance(load_config(path, []), StudyConfig)


@pytest.mark.parametrize(
    ("override", "key", "valid"),
    [
        (
            "study.trails=3",
            "study.trails",
            "name, trials, repeats, objective, objectives, constraint, objective_epoch, sampler, warm_start, "
            "replay, configurations, test_split, seed, storage, runs_dir",
        ),
        (
            "training.epoch=3",
            "training.epoch",
            "epochs, loader_batch_size, patience, checkpoint_every_epochs, accumulation_steps, precision, jit, "
            "moving_statistics, deterministic",
        ),
        (
            "modle.name=x",
            "modle",
            "study, training, model, dataset, task, optimizer, learning_rate, batch_policy, search_space",
        ),
        ("search_space.optimiser.x.low=1", "search_space.optimiser", "model, dataset, task, optimizer, learning_rate"),
        ("search_space.optimizer.learning_rate.lo=1", "learning_rate.lo", "type, low, high, log."),
        ('search_space.model.width={type="categorical", choises=[1]}', "width.choises", "type, choices."),
    ],
)
def test_an_unknown_key_is_refused_and_the_valid_ones_are_listed(config_path, override, key, valid):
    message = refusal(config_path, override)

    assert f"{key} is an unknown key" in message
    assert valid in message


@pytest.mark.parametrize("kind", ["model", "dataset", "optimizer", "batch_policy"])
def test_an_unknown_component_is_refused_and_those_that_exist_are_listed(config_path, kind):
    message = refusal(config_path, f"{kind}.name=perceptron")

    assert f"{kind}.name='perceptron' does not exist" in message
    known = {
        "model": "small_resnet",
        "dataset": "synthetic_bigearthnet",
        "optimizer": "sgd",
        "batch_policy": "constant",
    }
    assert known[kind] in message


def test_an_unknown_option_of_a_component_is_refused_and_those_that_it_takes_are_listed(config_path):
    message = refusal(config_path, "model.depth=3")

    assert "takes no option depth" in message
    assert "batch_norm_momentum, blocks, dropout_rate, normalisation, stem_stride, width" in message


def test_an_unknown_option_is_refused_when_it_is_sampled_too(config_path):
    message = refusal(config_path, 'search_space.optimizer.beta={type="float", low=0, high=1}')

    assert "optimizer 'sgd' takes no option beta" in message


def test_a_missing_option_that_a_component_needs_is_named_with_the_places_to_set_it(config_path):
    message = refusal(config_path, 'batch_policy={name="constant"}')

    assert "needs global_batch_size" in message
    assert "[batch_policy]" in message
    assert "[search_space.batch_policy]" in message


def test_an_option_cannot_be_fixed_and_sampled_at_once(config_path):
    assert "learning_rate is both fixed under [optimizer] and sampled" in refusal(
        config_path, "optimizer.learning_rate=0.1"
    )


@pytest.mark.parametrize(
    "override",
    ["study.trials=0", "training.epochs=0", "training.epochs=2.5", "study.name=../x", "study.objective=loss"],
)
def test_an_impossible_value_is_refused_with_its_place_and_itself(config_path, override):
    key, value = override.split("=")

    message = refusal(config_path, override)

    assert key in message
    assert value in message


def test_a_value_where_a_table_belongs_is_refused(config_path):
    assert "study must be a table" in refusal(config_path, "study=3")


def test_every_fault_of_a_config_is_told_at_once(config_path):
    message = refusal(config_path, "training.epochs=0", "study.trails=3")

    assert "training.epochs" in message
    assert "study.trails" in message


def test_a_missing_config_is_refused_and_those_that_come_along_are_listed(tmp_path):
    message = refusal(tmp_path / "absent.toml")

    assert "there is no config" in message
    assert "study/configs/demo.toml" in message


def test_a_config_that_is_not_toml_is_refused_with_the_line(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("[study\nname = 3")

    message = refusal(path)

    assert "not valid TOML" in message
    assert "line 1" in message


def test_a_config_that_is_nested_beyond_reason_is_refused(tmp_path):
    path = tmp_path / "deep.toml"
    path.write_text(f"a = {'[' * 5000}{']' * 5000}")

    assert refusal(path) == f"config {path} is not valid TOML: its values are nested too deeply."


@pytest.mark.parametrize(("depth", "said"), [(5000, "nested too deeply"), (40, "nested more than 32 levels deep")])
def test_an_override_that_is_nested_beyond_reason_is_refused(config_path, depth, said):
    message = refusal(config_path, f"model.blocks={'[' * depth}{']' * depth}")

    assert "model.blocks" in message
    assert said in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("study.runs_dir=runs\nrm -rf x", r"study.runs_dir contains the control character '\n'; remove it."),
        ('study.runs_dir="runs\\r"', r"study.runs_dir contains the control character '\r'"),
        ("study.name=a\x1b[31m", r"study.name contains the control character '\x1b'"),
        ("study.storage=sqlite:///a\x7f", r"study.storage contains the control character '\x7f'"),
        ('dataset.path="a\\u2028b"', r"dataset.path contains the control character '\u2028'"),
        ("model.tags=[['a', \"b\\nc\"]]", r"model.tags[0][1] contains the control character '\n'"),
        ('model={name="small_resnet", "wi\\ndth"=4}', r"the key 'wi\ndth' contains the control character '\n'"),
        (
            'search_space.model.width={type="categorical", choices=["4\\n"]}',
            r"search_space.model.width.choices[0] contains the control character '\n'",
        ),
    ],
)
def test_a_control_character_is_refused_wherever_it_stands(config_path, override, said):
    message = refusal(config_path, override)

    assert said in message
    assert "\n" not in message


def test_a_refused_control_character_does_not_show_its_value_which_may_be_a_secret(config_path):
    assert "s3cret" not in refusal(config_path, "study.storage=postgresql://ada:s3cret@db/stu\ndies")


def test_letters_of_every_language_are_no_control_characters(config_path):
    assert load_config(config_path, ['study.runs_dir="läufe/試験 1"']).study.runs_dir == Path("läufe/試験 1")


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not UTF-8", "a folder"])
def test_a_config_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "bad.toml"
    path.mkdir() if content is None else path.write_bytes(content)

    assert "cannot be read" in refusal(path)


def test_an_override_replaces_one_value_and_leaves_its_neighbours(config_path):
    config = load_config(config_path, ["training.epochs=9"])

    assert config.training.epochs == 9
    assert config.training.loader_batch_size == 32


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.normalisation=none", "none"),
        ('model.normalisation="none"', "none"),
        ("model.width=8", 8),
        ("model.blocks=[1, 2]", [1, 2]),
        ("model.batch_norm_momentum=0.5", 0.5),
    ],
)
def test_an_overriding_value_is_toml_or_else_a_string(config_path, override, value):
    option = override.partition("=")[0].removeprefix("model.")

    assert load_config(config_path, [override]).model.options[option] == value


def test_an_override_may_replace_a_whole_table(config_path):
    config = load_config(config_path, ['batch_policy={name="constant", global_batch_size=32}'])

    assert config.batch_policy.name == "constant"
    assert config.batch_policy.options == {"global_batch_size": 32}


def test_of_two_overrides_of_one_value_the_later_one_counts(config_path):
    assert load_config(config_path, ["training.epochs=9", "training.epochs=4"]).training.epochs == 4


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training.=3", "study.name.x=3"])
def test_an_override_that_is_none_says_how_one_looks(config_path, override):
    assert "--set" in refusal(config_path, override)


def test_a_refused_override_does_not_show_its_value_which_may_be_a_secret(config_path):
    message = refusal(config_path, "study.name.storage=postgresql://ada:s3cret@db/studies")

    assert "s3cret" not in message


def test_a_trial_is_told_fixed_and_sampled_options_together(config_path):
    config = load_config(config_path, ["optimizer.momentum=0.9"])

    specs = config.component_specs({"learning_rate": 0.25})

    assert specs["optimizer"].options == {"momentum": 0.9, "learning_rate": 0.25}


def test_what_may_change_between_two_runs_of_a_study_is_no_part_of_its_identity(config_path):
    changeable = ["study.trials=9", "study.crash_retries=3", "training.checkpoint_every_epochs=2", "study.runs_dir=x"]

    before = load_config(config_path, []).identity()

    assert load_config(config_path, changeable).identity() == before


@pytest.mark.parametrize(
    "override",
    [
        "training.epochs=3",
        "study.seed=8",
        "study.sampler=tpe",
        "study.objective=f1_macro",
        "model.width=8",
        "dataset.train=128",
        "batch_policy.switch_epoch=0",
        "search_space.optimizer.learning_rate.high=0.5",
    ],
)
def test_what_would_make_trials_incomparable_is_part_of_a_studys_identity(config_path, override):
    before = load_config(config_path, []).identity()

    assert load_config(config_path, [override]).identity() != before


DEMO = CONFIGS_DIR / "demo.toml"
FIXED = {"learning_rate": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 1e-3}


def configurations(*values: dict) -> str:
    return "study.configurations=[" + ", ".join(_table(value) for value in values) + "]"


def _table(value: dict) -> str:
    return "{" + ", ".join(f"{name} = {json.dumps(option)}" for name, option in value.items()) + "}"


def test_given_configurations_take_the_place_of_the_sampler():
    config = load_config(DEMO, [configurations(FIXED, {**FIXED, "nesterov": False}), "study.test_split=true"])

    assert [configuration["nesterov"] for configuration in config.study.configurations] == [True, False]
    assert config.study.test_split


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 2.0}, "learning_rate=2.0 is not in the search space: 0.001 to 1, log"),
        ({"nesterov": 1}, "nesterov=1 is not in the search space: one of False, True"),
        ({"depth": 3}, "study.configurations[0] has depth"),
        ({"momentum": None}, "study.configurations[0] lacks momentum"),
    ],
)
def test_a_configuration_outside_of_the_search_space_is_refused(change, words):
    wrong = {name: value for name, value in {**FIXED, **change}.items() if value is not None}

    assert words in refusal(DEMO, configurations(wrong))


def test_the_test_split_takes_no_part_in_a_search(config_path):
    assert "study/evaluate.py scores" in refusal(config_path, "study.test_split=true")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["enqueue=[{rate=1.0}]"], "enqueue[0] has rate; the search space's parameters are learning_rate"),
        (["enqueue=[{learning_rate=0.1}, {learning_rate=7.0}]"], "enqueue[1]: learning_rate=7.0 is not in the search"),
        (["enqueue=[{}, {}, {}, {}]"], "enqueue holds 4 configurations and study.trials=3; take at least 4 trials."),
        (["enqueue=[{}]", "study.configurations=[{learning_rate=0.1}]"], "leave one of them out"),
    ],
)
def test_configurations_to_run_first_that_cannot_be_are_refused(config_path, overrides, words):
    assert words in refusal(config_path, *overrides)


def test_configurations_to_run_first_are_part_of_what_a_study_is(config_path):
    assert load_config(config_path, ["enqueue=[{learning_rate=0.1}]"]).identity()["enqueue"] == [{"learning_rate": 0.1}]
    assert load_config(config_path, []).identity()["enqueue"] == StudyConfig.identity_defaults()["enqueue"]
