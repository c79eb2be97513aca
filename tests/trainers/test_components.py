from __future__ import annotations

import pytest

from storage.records import ComponentSpec
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
