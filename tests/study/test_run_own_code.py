"""Components of a person's own package, by their import path, in a real study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from tests.study.driver import WITHIN_S, Workplace, new_workplace, run_command

MODEL = """
import keras
from keras import layers


def tiny(input_shape, class_count, *, width: int = 4):
    images = keras.Input(input_shape)
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(width, 3)(images))
    return keras.Model(images, layers.Dense(class_count)(features))
"""
POLICY = """
from __future__ import annotations

from trainers.batch_policies.constant import Constant


def steady(*, size: int):
    return Constant(size)


def faulty(*, size: int):
    return Constant(size + [])


def hidden(**options):
    return Constant(options["size"])


number = 16
"""


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return new_workplace(tmp_path, ranks=2)


@pytest.fixture
def package(workplace) -> Path:
    """In the folder where the driver is started."""
    package = workplace.folder / "ours"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text(MODEL)
    (package / "policies.py").write_text(POLICY)
    # What Python would find first if it looked there before it looks into this project.
    (workplace.folder / "storage").mkdir()
    (workplace.folder / "storage" / "__init__.py").write_text("raise RuntimeError('this is not the project')")
    return package


@pytest.mark.timeout(4 * WITHIN_S)
def test_two_ranks_train_a_model_and_a_policy_of_a_package_beside_the_config_with_an_optimizer_of_keras(
    workplace, package
):
    settings = [
        *("--set", "model={name='ours.models:tiny', width=6}"),
        *("--set", "optimizer={name='keras.optimizers:AdamW', weight_decay=0.01}"),
        *("--set", "batch_policy={name='ours.policies:steady', size=16}"),
    ]

    done = workplace.run("--trials", "1", *settings, within_s=2 * WITHIN_S)

    assert done.exit_code == 0, done.output
    assert [trial.state for trial in workplace.trials()] == [TrialState.COMPLETE]
    assert workplace.trial_dir(0).read_spec().model.name == "ours.models:tiny"
    # The model that it becomes needs the package no more.
    exported = run_command(workplace, "export.py", "small", "--out", "model")
    assert exported.exit_code == 0, exported.output
    package.rename(workplace.folder / "away")
    np.save(workplace.folder / "samples.npy", np.zeros((3, 16, 16, 12), np.uint16))
    predicted = run_command(workplace, "predict.py", "model", "samples.npy", "--out", "table.csv")
    assert predicted.exit_code == 0, predicted.output
    assert len((workplace.folder / "table.csv").read_text().splitlines()) == 1 + 3
    (workplace.folder / "away").rename(package)
    # What has been built once is built again when its source has changed.
    (package / "models.py").write_text(MODEL.replace("(class_count)", '(class_count, activation="sigmoid")'))
    assert "model 'ours.models:tiny' gives probabilities" in workplace.run("--trials", "2", *settings).output


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        pytest.param(
            "model={name='absent.models:tiny'}",
            ["model.name='absent.models:tiny': there is no package 'absent' in", "PYTHONPATH"],
            id="no package",
        ),
        pytest.param(
            "batch_policy={name='ours.absent:steady'}",
            ["'ours.absent:steady': there is no module 'ours.absent'"],
            id="no module",
        ),
        pytest.param(
            "batch_policy={name='ours.policies:stead', size=16}", ["has no 'stead'; it has", "steady"], id="no function"
        ),
        pytest.param("batch_policy={name='ours.policies:number'}", ["16, and not a function"], id="not callable"),
        pytest.param(
            "batch_policy={name='ours.policies:steady:x'}", ["not an import path; write MODULE:FUNCTION"], id="no path"
        ),
        pytest.param(
            "batch_policy={name='ours.policies:steady', sise=16}",
            ["'ours.policies:steady' takes no option sise; it takes size"],
            id="an option it does not take",
        ),
        pytest.param(
            "batch_policy={name='ours.policies:steady', size='16'}", ["must be of type int"], id="an option's type"
        ),
        pytest.param(
            "batch_policy={name='ours.policies:faulty', size=16}",
            ["ours.policies:faulty cannot be built: TypeError", "policies.py, line 12"],
            id="raises",
        ),
        pytest.param(
            "dataset={name='ours.policies:hidden', size=16}",
            ["ours.policies:hidden(**options) must take (cache_dir) by position"],
            id="another contract",
        ),
        pytest.param(
            "batch_policy={name='ours.broken:steady'}", ["broken.py, line 1: this is not Python"], id="a syntax error"
        ),
        pytest.param(
            "batch_policy={name='ours.needy:steady'}",
            ["ours.needy cannot be imported: ModuleNotFoundError: No module named 'absent'", "needy.py, line 1"],
            id="an import of what is not there",
        ),
    ],
)
def test_a_component_that_cannot_be_used_is_told_in_one_line_and_leaves_nothing_behind(
    workplace, package, setting, said
):
    (package / "broken.py").write_text("def steady(\n")
    (package / "needy.py").write_text("import absent\nfrom trainers.batch_policies.constant import build as steady\n")
    before = files_of_studies(workplace)

    error = workplace.run("--set", setting).error

    for words in said:
        assert words in error
    assert files_of_studies(workplace) == before


def test_a_package_in_a_folder_of_pythonpath_is_found_and_checked(workplace, package, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    package.rename(elsewhere / "theirs")

    options = ("--dry-run", "--set", "batch_policy={name='theirs.policies:hidden', size=16}")
    checked = workplace.run(*options, PYTHONPATH=str(elsewhere))

    assert checked.exit_code == 0, checked.output
    assert f'"{elsewhere}"' in checked.output


def files_of_studies(workplace: Workplace) -> set[str]:
    """Python keeps what it has compiled beside its source."""
    return {path for path in workplace.files() if "__pycache__" not in path}
