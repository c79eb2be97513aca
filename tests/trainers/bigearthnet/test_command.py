"""What the commands answer to what they cannot do: one line, and exit code 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trainers.bigearthnet import Version, command
from trainers.bigearthnet.command import main
from trainers.bigearthnet.synthesize import synthesize

PATCHES = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("v2")
    synthesize(Version.V2, PATCHES, path)
    return path


@pytest.fixture
def archive(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def prepare(archive: Path, *options: str | Path) -> list[str]:
    """The command; an option that is given twice counts as it was given last."""
    inputs = ("--version", "v2", "--archive", archive, "--splits", archive)
    return list(map(str, ("prepare", *inputs, "--out", archive / "out", "--workers", "1", *options)))


def synthesis(out: Path, *options: str, version: Version = Version.V1) -> list[str]:
    return ["synthesize", "--patches", str(PATCHES), "--version", version, "--out", str(out), *options]


def refusal(arguments: list[str], capsys) -> str:
    """The one line of an error of the command."""
    assert main(arguments) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def usage_error(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (("--version", "v3"), "argument --version: 'v3' is none of v1, v2"),
        (("--workers", "x"), "argument --workers: 'x' is not a whole number"),
        (("--limit", "0"), "argument --limit: 0 is not 1 or more"),
    ],
)
def test_an_impossible_option_is_answered_with_the_rule(tmp_path, capsys, options, answer):
    assert usage_error(prepare(tmp_path, *options), capsys).endswith(answer)


def test_a_negative_seed_is_answered_with_the_rule(tmp_path, capsys):
    answer = usage_error(synthesis(tmp_path, "--seed", "-1"), capsys)

    assert answer.endswith("argument --seed: -1 is not 0 or more")


def test_an_unknown_split_is_answered_with_the_valid_ones(tmp_path, capsys):
    answer = usage_error(["statistics", "--data", str(tmp_path), "--split", "x"], capsys)

    assert answer.endswith("argument --split: 'x' is none of train, val, test")


def test_a_place_that_cannot_be_written_to_is_no_full_disk(archive, capsys):
    file = archive / "file"
    file.touch()

    for out in (file, file / "out"):
        answer = refusal(prepare(archive, "--out", out), capsys)
        assert f"cannot write to {out}: " in answer
        assert answer.endswith("--out must be a folder that you may write to.")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_broken_plan_is_answered_with_what_to_do(archive, capsys, content):
    assert main(prepare(archive)) == 0
    (archive / "out/plan.json").write_text(content)

    answer = refusal(prepare(archive), capsys)

    assert "plan.json is damaged" in answer
    assert answer.endswith(f"empty {archive / 'out'} or choose another --out.")


def test_metadata_without_a_row_are_refused(archive, capsys):
    for path in archive.glob("*.parquet"):
        pq.write_table(pq.read_table(path).slice(0, 0), path)

    assert "metadata.parquet holds no row; --splits must be" in refusal(prepare(archive), capsys)


def test_an_archive_that_may_not_be_read_is_refused(archive, capsys, monkeypatch):
    def refuse(path: Path) -> None:
        # Not by chmod: root may read everything.
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("trainers.bigearthnet.archive.os.scandir", refuse)

    assert "the archive cannot be read: [Errno 13] Permission denied" in refusal(prepare(archive), capsys)


def test_practice_data_for_an_impossible_place_are_refused(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()

    answer = refusal(synthesis(file / "out"), capsys)

    assert f"cannot write to {file / 'out'}: " in answer
    assert "--out must be a folder that you may write to, with 4 MB of room" in answer


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (Version.V1, "BigEarthNet-v1.0"),
        (Version.V1, "splits"),
        (Version.V2, "metadata.parquet"),
        (Version.V2, "metadata_for_patches_with_snow_cloud_or_shadow.parquet"),
    ],
)
def test_practice_data_never_replace_what_is_there_and_say_so_first(tmp_path, capsys, version, name):
    (tmp_path / name).mkdir()

    answer = refusal(synthesis(tmp_path, version=version), capsys)

    assert f"{tmp_path / name} is there already; choose another --out or delete it." in answer
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_interrupted_command_says_how_to_go_on(archive, capsys, monkeypatch):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "prepare", interrupt)
    monkeypatch.setattr(command, "synthesize", interrupt)

    assert main(prepare(archive)) == 130
    assert "interrupted; give the same command again to go on" in capsys.readouterr().err
    assert main(synthesis(archive)) == 130
    assert "interrupted; delete what is half done in --out before" in capsys.readouterr().err
