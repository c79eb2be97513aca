"""docs/performance_model.md: its tables are what the model computes, and what its text says of them is so."""

from __future__ import annotations

import pytest

from tests.architecture.sources import REPOSITORY
from tests.study.forecast.published import TABLES, paper_costs, rate, scenarios, switch_factor

PAGE = REPOSITORY / "docs" / "performance_model.md"


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_table_as_the_model_computes_it(name):
    assert TABLES[name]() in PAGE.read_text(), f"python -m tests.study.forecast.published prints the table {name!r}"


def test_the_model_gives_the_paper_s_own_times_back():
    paper = scenarios()[0].best

    # 79 and 345 images/s a GPU, but for the updates that Algorithm 1 makes of a short last batch.
    assert rate(paper, 32) == pytest.approx(79, rel=0.05)
    assert rate(paper, 1024) == pytest.approx(345, rel=0.05)
    assert paper_costs()[0] == pytest.approx(0.312, rel=0.01)


def test_a_compiled_step_leaves_the_switch_a_factor_of_about_two():
    compiled = next(scenario for scenario in scenarios() if scenario.name.endswith("(XLA)"))

    low, high = compiled.over(switch_factor)
    assert 1.7 < low < high < 2.6
