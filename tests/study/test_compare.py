"""python study/compare.py: studies side by side on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.compare import main
from tests.study.reporting.made_studies import (
    CONSTANT,
    SWITCH,
    completed,
    config,
    diverged,
    failed,
    running,
    store,
)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    tmp_path = tmp_path_factory.mktemp("studies")
    scores = [0.5, 0.6, 0.7, 0.55]
    store(
        tmp_path,
        "switch",
        [*(completed(n, s, wall_s=50.0) for n, s in enumerate(scores)), diverged(4)],
        config(SWITCH),
    )
    store(
        tmp_path,
        "constant",
        [*(completed(n, s + 0.01, sizes=(32,)) for n, s in enumerate(scores)), completed(4, 0.4, sizes=(32,))],
        config(CONSTANT),
    )
    store(tmp_path, "wide", [completed(0, 0.5)], config(SWITCH, model={"width": 64}, dataset={"name": "eurosat"}))
    store(tmp_path, "macro", [completed(0, 0.5)], config(SWITCH, study={"objective": "f1_macro"}))
    store(tmp_path, "empty", [running(0), failed(1), diverged(2)], config(SWITCH))
    return tmp_path


def compare(folder: Path, *arguments: str) -> int:
    return main([*arguments, "--runs-dir", str(folder / "runs")])


def test_the_arms_stand_side_by_side_with_spread_total_time_node_hours_and_speed_up(folder, capsys):
    assert compare(folder, "switch", "constant") == 0

    said = capsys.readouterr().out
    assert "0.7000 (0.6000)" in said
    assert "diverged" in said
    # Of the shared configurations: 100 s against 50 s.
    assert "2.00 (95 % interval 2.00 to 2.00)" in said
    assert "50.0 ± 0.0 s" in said
    assert "node-hours" in said
    assert "total time" in said
    assert "validation split, in the last epoch, 1 seed per configuration" in said
    assert "−0.0100 (−0.0100 to −0.0100)" in said


def test_a_diverged_trial_does_not_cut_the_curve_of_its_arm(folder):
    from study.reporting.curves import time_per_epoch
    from study.reporting.load import load_arms

    chart = time_per_epoch(load_arms(["switch"], None, folder / "runs"))

    assert chart is not None
    rows = chart.spec["layer"][1]["data"]["values"]
    assert [(row["epoch"], row["trials"]) for row in rows] == [(1, 5), (2, 4), (3, 4), (4, 4)]


def test_studies_of_other_models_and_data_are_named_as_unlike(folder, capsys):
    assert compare(folder, "switch", "wide") == 0

    said = capsys.readouterr().out
    assert "note: wide and switch differ in more than the batch policy" in said
    assert "dataset.name is 'synthetic_bigearthnet' in 'switch' and 'eurosat' in 'wide'" in said
    assert "model.width is not set in 'switch' and 64 in 'wide'" in said


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_figure_is_of_the_kind_that_its_name_says(folder, suffix):
    path = folder / f"figure{suffix}"

    assert compare(folder, "switch", "constant", "--figure", str(path)) == 0

    assert path.read_bytes().startswith({".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}[suffix])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("absent",), "there is no database"),
        (("switch", "empty"), "study 'empty' has no completed trial to compare"),
        (
            ("switch", "macro"),
            "cannot be compared: study.objective is 'f1_micro' in 'switch' and 'f1_macro' in 'macro'",
        ),
        (("switch", "--figure", "{tmp}/absent/f.png"), "there is no folder {tmp}/absent"),
        (("switch", "--figure", "{tmp}"), "--figure {tmp} is a folder"),
        (("switch", "--figure", "{tmp}/f.gif"), "a figure's name ends with .pdf, .png, .svg"),
    ],
)
def test_bad_input_is_one_clear_error(folder, capsys, arguments, said):
    assert compare(folder, *(argument.format(tmp=folder) for argument in arguments)) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said.format(tmp=folder) in error
