from __future__ import annotations

from pathlib import Path
from typing import Literal, Optional

import pytest

from storage.protocol.records import ComponentSpec
from trainers import components
from trainers.batch_policies import constant
from trainers.batch_policies.constant import Constant
from trainers.components import ComponentError, build


def test_a_component_is_found_by_its_files_name():
    assert build("batch_policies", ComponentSpec("constant", {"global_batch_size": 512})) == Constant(512)


@pytest.mark.parametrize("name", ["constnat", "", "constant.build", "../constant"])
def test_an_unknown_name_is_answered_with_the_valid_ones(name):
    with pytest.raises(ComponentError, match=r"among the batch_policies; choose one of constant, .*switch_at_epoch"):
        build("batch_policies", ComponentSpec(name))


def test_an_unknown_option_is_answered_with_the_valid_ones():
    with pytest.raises(ComponentError, match="constant takes no option size; it takes global_batch_size"):
        build("batch_policies", ComponentSpec("constant", {"size": 512}))


def test_a_missing_option_is_named():
    with pytest.raises(ComponentError, match="constant needs global_batch_size"):
        build("batch_policies", ComponentSpec("constant"))


@pytest.mark.parametrize("value", ["512", 512.0, True, None])
def test_an_option_of_the_wrong_type_is_shown(value):
    with pytest.raises(ComponentError, match=f"global_batch_size={value!r}; it must be of type int"):
        build("batch_policies", ComponentSpec("constant", {"global_batch_size": value}))


def test_an_optional_option_of_the_wrong_type_is_shown():
    options = {"path": "anywhere", "node_cache": 5}

    with pytest.raises(ComponentError, match=r"datasets/bigearthnet: node_cache=5; it must be of type str \| None\."):
        build("datasets", ComponentSpec("bigearthnet", options), "cache")


@pytest.fixture
def build_with(monkeypatch):
    """A component that gives back its options, one for each kind of type that a config can hold."""

    def build(
        *,
        flag: bool = False,
        rate: float | None = None,
        mode: Literal["fast", 2] = "fast",
        widths: list[int] | int = 1,
        shares: Optional[dict[str, float]] = None,  # noqa: UP045 (the older way is seen, too)
        path: Path | None = None,
        anything=None,
    ) -> dict[str, object]:
        return {name: value for name, value in locals().items() if value is not None}

    monkeypatch.setattr(constant, "build", build)
    return lambda **options: components.build("batch_policies", ComponentSpec("constant", options))


@pytest.mark.parametrize(
    "option",
    [
        {"flag": True},
        {"rate": None},
        {"rate": 1},
        {"rate": 0.5},
        {"mode": 2},
        {"mode": "fast"},
        {"widths": [1, 2]},
        {"widths": []},
        {"widths": 3},
        {"shares": {"a": 1, "b": 0.5}},
        {"shares": None},
        {"path": "a/b"},
        {"anything": [1]},
    ],
)
def test_an_option_of_one_of_its_types_is_taken(build_with, option):
    taken = build_with(**option)

    assert all(taken.get(name) == value for name, value in option.items())


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ({"flag": 1}, "bool"),
        ({"flag": None}, "bool"),
        ({"rate": "0.5"}, "float | None"),
        ({"rate": True}, "float | None"),
        ({"mode": "slow"}, "Literal['fast', 2]"),
        ({"mode": 2.0}, "Literal['fast', 2]"),
        ({"widths": [1, "2"]}, "list[int] | int"),
        ({"widths": 1.5}, "list[int] | int"),
        ({"shares": {"a": "1"}}, "dict[str, float]"),
        ({"shares": [1]}, "dict[str, float]"),
    ],
)
def test_an_option_of_none_of_its_types_is_shown_with_them(build_with, option, wanted):
    [(name, value)] = option.items()

    with pytest.raises(ComponentError) as refused:
        build_with(**option)

    assert f"{name}={value!r}; it must be of type " in str(refused.value)
    assert wanted in str(refused.value)
