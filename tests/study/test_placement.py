"""Which waiting trials there is room for."""

import pytest

from study.placement import count_that_fit


@pytest.mark.parametrize(
    ("sizes", "room", "count"),
    [
        ([], 4, 0),
        ([1, 1, 1], 2, 2),
        ([4], 4, 1),
        ([1, 2, 1], 4, 3),
        # The small one would take what the large one waits for.
        ([4, 1], 3, 0),
        ([1], -1, 0),
    ],
)
def test_trials_begin_in_their_order_as_long_as_they_fit(sizes, room, count):
    assert count_that_fit(sizes, room) == count
