"""Packages of a person's own: found and read, and never run by the driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.protocol.import_path import ImportPath, ImportPathError
from study import catalog
from study.catalog import CatalogError
from study.own_code import CodeFolders, OwnCodeError
from tests.study.fakes import new_plan

UNET = ImportPath("ours.models", "unet")
SOURCE = """
raise RuntimeError("the driver has run it")

TASK = "single_label"


def unet(input_shape, class_count, *, depth: int, width: int = 8):
    pass


def by_position(input_shape, class_count, depth, width=8):
    pass


def takes_any(input_shape, class_count, **options):
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the driver is started, with a package."""
    write_package(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path / "here"


def write_package(folder: Path, source: str = SOURCE) -> Path:
    (folder / "ours" / "parts").mkdir(parents=True)
    for name in ("__init__.py", "parts/__init__.py"):
        (folder / "ours" / name).write_text("raise RuntimeError('the driver has run it')")
    (folder / "ours" / "models.py").write_text(source)
    return folder


@pytest.mark.parametrize("name", ["a:b:c", ":b", "a:", "a b:c", "a..b:c", "a.b:c()", "1a:b", "a/b:c"])
def test_what_is_neither_a_file_s_name_nor_an_import_path_is_refused(name):
    with pytest.raises(ImportPathError, match="not an import path; write MODULE:FUNCTION"):
        ImportPath.parse(name)


def test_a_name_without_a_colon_is_that_of_a_bundled_component():
    assert ImportPath.parse("small_resnet") is None
    assert ImportPath.parse("ours.models:unet") == UNET


def test_a_module_is_found_where_the_driver_is_started_without_running_it(folder):
    assert CodeFolders.here().file_of(UNET) == folder / "ours/models.py"


def test_a_module_is_found_in_the_folders_of_pythonpath_after_that(folder, tmp_path):
    write_package(tmp_path / "there")
    (folder / "ours").rename(folder / "mine")

    folders = CodeFolders.here({"PYTHONPATH": f"{tmp_path}/there:"})

    assert folders.paths == (folder, tmp_path / "there")
    assert folders.file_of(UNET) == tmp_path / "there/ours/models.py"


def test_a_package_that_is_nowhere_is_told_with_the_places_that_were_searched(folder):
    with pytest.raises(OwnCodeError) as refused:
        CodeFolders.here().find(ImportPath("absent.models", "unet"))

    assert f"there is no package 'absent' in {folder}, and none is installed" in str(refused.value)


def test_an_installed_package_is_found_and_counts_by_its_version(folder):
    folders, keras = CodeFolders.here(), ImportPath("keras.applications", "ResNet50")

    assert folders.find(keras).name == "keras"
    assert folders.sha256([keras]) == CodeFolders(()).sha256([keras]) != ""


def test_the_digest_changes_with_any_source_file_of_the_package_and_with_nothing_else(folder):
    folders = CodeFolders.here()
    before = folders.sha256([UNET])

    (folder / "ours" / "notes.txt").write_text("of no matter")
    (folder / "other.py").write_text("of no matter")
    unchanged = folders.sha256([UNET])
    (folder / "ours" / "parts" / "__init__.py").write_text("block = 1")

    assert unchanged == before
    assert folders.sha256([UNET]) != before
    assert folders.sha256([]) == ""


def test_ranks_are_told_the_folders_and_the_source_only_if_they_need_them(folder):
    plain = new_plan(folder).request(0, 1, 60.0)
    own = new_plan(folder, "model={name='ours.models:unet', depth=2}")
    before = own.request(0, 1, 60.0)
    (folder / "ours" / "models.py").write_text("# another one")

    assert (plain.code_folders, plain.code_sha256) == ((), "")
    assert before.code_folders == (folder,)
    # Ranks that stay compare it: docs/adr/0014.
    assert own.request(0, 2, 60.0).code_sha256 != before.code_sha256


@pytest.mark.parametrize("function", ["unet", "by_position"])
def test_options_are_read_from_the_source(folder, function):
    name = f"ours.models:{function}"

    catalog.check_options("model", name, frozenset({"depth", "width"}))
    with pytest.raises(CatalogError, match=f"model '{name}' takes no option deep; it takes depth, width"):
        catalog.check_options("model", name, frozenset({"depth", "deep"}))
    with pytest.raises(CatalogError, match=f"model '{name}' needs depth"):
        catalog.check_options("model", name, frozenset())


@pytest.mark.parametrize("name", ["ours.models:takes_any", "ours.models:absent", "ours.absent:unet"])
def test_what_the_source_does_not_tell_is_left_to_the_preflight(folder, name):
    assert catalog.options_of("model", name) is None


def test_a_data_set_of_one_s_own_names_its_task_as_a_bundled_one_does(folder):
    assert catalog.default_task("ours.models:unet") == "single_label"


def test_every_kind_of_component_has_a_table_in_a_config_and_in_its_search_space():
    from storage.protocol.records import KINDS
    from study.config import StudyConfig
    from study.search_space import SearchSpace

    assert set(KINDS) <= set(StudyConfig.model_fields)
    assert set(KINDS) == set(SearchSpace.model_fields)
