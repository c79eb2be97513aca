"""What the lists say of a patch when they name it more than once."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainers.bigearthnet import Version
from trainers.bigearthnet.split_lists import SplitLists, Status, read_split_lists

ONE, TWO, THREE = (f"S2A_MSIL2A_20170613T101031_{number}_5" for number in (1, 2, 3))


@pytest.fixture
def v1(tmp_path):
    def read(**names_of: list[str]) -> SplitLists:
        for stem in {"train", "val", "test", *names_of}:
            (tmp_path / f"{stem}.csv").write_text("".join(f"{name}\n" for name in names_of.get(stem, [])))
        return read_split_lists(Version.V1, tmp_path)

    return read


def statuses(lists: SplitLists) -> dict[str, Status]:
    return {name.decode(): Status(code) for name, code in zip(lists.names, lists.status.tolist(), strict=True)}


def test_what_drops_a_patch_outweighs_its_split(v1):
    lists = v1(train=[TWO, ONE], patches_with_seasonal_snow=[ONE], patches_with_no_19_class_targets=[ONE])

    assert statuses(lists) == {ONE: Status.NO_CLASS, TWO: Status.TRAIN}
    assert not lists.bad


@pytest.mark.parametrize(
    ("names_of", "reason"),
    [
        ({"train": [ONE], "val": [ONE], "test": [ONE]}, "listed in train and in val and in test"),
        ({"val": [ONE, ONE]}, "listed in val and in val"),
        ({"train": [ONE], "test": [ONE], "patches_with_seasonal_snow": [ONE]}, "listed in train and in test"),
    ],
)
def test_a_patch_in_two_splits_has_no_row_and_a_reason(v1, names_of, reason):
    lists = v1(**{**names_of, "train": [TWO, *names_of.get("train", [])]})

    assert lists.bad == ((ONE, reason),)
    assert statuses(lists) == {TWO: Status.TRAIN}


def test_no_row_is_left_when_every_patch_is_in_two_splits(v1):
    lists = v1(train=[ONE, TWO, THREE], val=[THREE, TWO, ONE])

    assert len(lists) == 0
    assert [name for name, _ in lists.bad] == [ONE, TWO, THREE]


def test_a_row_of_a_patch_with_another_bad_row_is_left_out_even_if_it_is_the_only_one(tmp_path):
    # As many bad names as good rows.
    name = "S2A_MSIL2A_20170613T101031_N9999_R022_T34VER_01_05"
    row = {"patch_id": name, "labels": ["Pastures"], "contains_seasonal_snow": False, "contains_cloud_or_shadow": False}
    table = pa.Table.from_pylist([{**row, "split": "train"}, {**row, "split": "val"}])
    pq.write_table(table, tmp_path / "metadata.parquet")

    lists = read_split_lists(Version.V2, tmp_path)

    assert len(lists) == 0
    assert lists.bad == ((name, "its split is 'val', not train, validation, test"),)
