"""From an archive to shards, for both versions, with everything that can be wrong with an archive."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from tests.small_disk import mount_small_disk
from tests.waiting import wait_until
from trainers.bigearthnet import PrepareError, Version, plan
from trainers.bigearthnet.bands import ROW, VALUES_PER_PATCH
from trainers.bigearthnet.command import main
from trainers.bigearthnet.labels import CLASS_OF_NAME, CLASSES
from trainers.bigearthnet.prepare import BadPatchesError, Preparation, prepare
from trainers.bigearthnet.prepared import Manifest, read_manifest, read_names
from trainers.bigearthnet.statistics import band_statistics
from trainers.bigearthnet.synthesize import synthesize
from trainers.datasets import DatasetError, Split, bigearthnet, read_samples

REPOSITORY = Path(__file__).resolve().parents[3]
PATCHES = 24


@dataclass(frozen=True)
class Practice:
    """A practice archive of 24 patches, which a test may break."""

    version: Version
    path: Path

    @property
    def splits(self) -> Path:
        return self.path / ("splits" if self.version is Version.V1 else "metadata.parquet")

    def preparation(self, out: str = "out", **options) -> Preparation:
        options = {"patches_per_shard": 4, **options}
        return Preparation(self.path, self.version, self.splits, self.path / out, **options)

    def prepare(self, out: str = "out", **options) -> Manifest:
        return prepare(self.preparation(out, **options))

    def command(self, *options: str, workers: int = 1) -> tuple[str, ...]:
        arguments = ("--archive", self.path, "--version", self.version, "--splits", self.splits)
        out = ("--out", self.path / "out", "--patches-per-shard", "1", "--workers", workers)
        program = (sys.executable, "-m", "trainers.datasets.bigearthnet", "prepare")
        return tuple(map(str, (*program, *arguments, *out, *options)))

    def listed(self, split: Split = Split.TRAIN) -> list[str]:
        if self.version is Version.V1:
            return (self.splits / f"{split}.csv").read_text().split()
        rows = pq.read_table(self.splits).to_pylist()
        return [row["patch_id"] for row in rows if row["split"] == ("validation" if split is Split.VAL else split)]

    def folder(self, name: str) -> Path:
        return next(self.path.glob(f"BigEarthNet-*/**/{name}"))

    def reasons(self) -> dict[str, str]:
        lines = (self.path / "out/bad_patches.csv").read_text().splitlines()[1:]
        return {line.partition(",")[0]: line.partition(",")[2].strip('"') for line in lines}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[Version, Practice]:
    archives = {version: Practice(version, tmp_path_factory.mktemp(version)) for version in Version}
    for version, practice in archives.items():
        synthesize(version, PATCHES, practice.path)
    return archives


@pytest.fixture(scope="module", params=Version)
def whole(request, archives) -> Practice:
    return archives[request.param]


@pytest.fixture
def practice(whole, tmp_path) -> Practice:
    return copy_of(whole, tmp_path)


@pytest.fixture
def v1(archives, tmp_path) -> Practice:
    return copy_of(archives[Version.V1], tmp_path)


@pytest.fixture
def v2(archives, tmp_path) -> Practice:
    return copy_of(archives[Version.V2], tmp_path)


def copy_of(whole: Practice, path: Path) -> Practice:
    shutil.copytree(whole.path, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("out*"))
    return Practice(whole.version, path)


def test_every_listed_patch_is_in_its_split_with_its_pixels_and_labels(whole):
    manifest = whole.prepare()

    for split in Split:
        names = read_names(whole.path / "out", split)
        samples, labels = read_split(whole.path / "out", split)
        assert sorted(names) == sorted(whole.listed(split))
        assert manifest.splits[split].patches == len(names)
        for name, sample, label in zip(names, samples, labels, strict=True):
            for band in ROW:
                with rasterio.open(whole.folder(name) / f"{name}_{band.name}.tif") as tiff:
                    np.testing.assert_array_equal(band.of(sample), tiff.read(1))
            assert {CLASSES[index] for index in np.flatnonzero(label)} == true_classes(whole, name)


def test_what_the_lists_drop_is_counted_and_not_prepared(whole):
    manifest = whole.prepare("out-dropped")

    assert sum(split.patches for split in manifest.splits.values()) + sum(manifest.dropped.values()) == PATCHES
    assert {"snow", "cloud_or_shadow"} <= set(manifest.dropped)
    assert not manifest.has_official_sizes


def test_the_output_is_the_same_whatever_the_number_of_workers(whole):
    whole.prepare("out-1", workers=1)
    whole.prepare("out-2", workers=2)

    assert contents(whole.path / "out-1") == contents(whole.path / "out-2")


def test_a_limit_takes_so_many_of_the_patches_that_are_there(practice):
    shutil.rmtree(practice.folder(practice.listed()[0]))

    manifest = practice.prepare(limit=7)

    assert sum(split.patches for split in manifest.splits.values()) == 7


@pytest.mark.parametrize("options", [{}, {"limit": 100}, {"skip_bad": True}])
def test_an_archive_without_a_listed_patch_is_refused(practice, options):
    archive = next(practice.path.glob("BigEarthNet-*"))
    shutil.rmtree(archive)
    archive.mkdir()

    with pytest.raises(
        PrepareError, match=r"none of the 0 patches in .* is one of the \d+ that the lists put into a split"
    ):
        practice.prepare(**options)

    assert not (practice.path / "out").exists()


def test_a_limit_that_the_archive_cannot_fill_is_said(v2, capsys):
    there = sum(len(v2.listed(split)) for split in Split)

    assert main(list(v2.command("--limit", "1000")[3:])) == 0

    assert f"--limit is 1000, and only {there} patches are prepared" in capsys.readouterr().err


def test_a_split_that_a_limit_leaves_empty_is_said(v2, capsys):
    assert main(list(v2.command("--limit", "1")[3:])) == 0

    said = capsys.readouterr().err
    assert "--limit is" not in said
    assert said.count("is left without a patch") == 2


def remove_band(folder: Path) -> None:
    (folder / f"{folder.name}_B05.tif").unlink()


def truncate_band(folder: Path) -> None:
    path = folder / f"{folder.name}_B08.tif"
    path.write_bytes(path.read_bytes()[:9000])


def empty_band(folder: Path) -> None:
    (folder / f"{folder.name}_B08.tif").write_bytes(b"")


def write_band(size: int, dtype: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        profile = {"driver": "GTiff", "count": 1, "width": size, "height": size, "dtype": dtype}
        with rasterio.open(folder / f"{folder.name}_B01.tif", "w", **profile) as tiff:
            tiff.write(np.ones((size, size), dtype), 1)

    return write


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove_band, "B05 is missing"),
        (truncate_band, "B08 cannot be read"),
        (empty_band, "B08 cannot be read"),
        (write_band(21, "uint16"), "B01 is 1 x 21 x 21 uint16, not 1 x 20 x 20 uint16"),
        (write_band(20, "int16"), "B01 is 1 x 20 x 20 int16, not"),
        (shutil.rmtree, "in the split train, but not in the archive"),
    ],
)
def test_a_broken_patch_is_reported_and_left_out_only_with_leave(practice, damage, reason):
    name = practice.listed()[0]
    damage(practice.folder(name))

    with pytest.raises(BadPatchesError, match=r"1 patches cannot be used; .*bad_patches\.csv"):
        practice.prepare()
    assert reason in practice.reasons()[name]
    with pytest.raises(DatasetError, match="prepare"):
        bigearthnet.build("", path=str(practice.path / "out"))

    manifest = practice.prepare(skip_bad=True)

    assert manifest.bad_patches == 1
    assert set(practice.listed()) - set(read_names(practice.path / "out", Split.TRAIN)) == {name}


def test_a_mended_patch_is_read_in_the_next_run(practice):
    path = next(practice.folder(practice.listed()[0]).glob("*_B02.tif"))
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(BadPatchesError):
        practice.prepare()

    path.write_bytes(content)

    assert practice.prepare().splits[Split.TRAIN].patches == len(practice.listed())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"labels": ["Pastures"', "is broken"),
        ('{"tags": []}', "is broken"),
        ('{"labels": 3}', "is broken"),
        ('{"labels": ["Moon"]}', "unknown label 'Moon'"),
        ('{"labels": ["Airports"]}', "none of its labels is in the 19 classes, though no list drops it"),
    ],
)
def test_a_broken_label_file_is_reported(v1, content, reason):
    name = v1.listed()[0]
    (v1.folder(name) / f"{name}_labels_metadata.json").write_text(content)

    with pytest.raises(BadPatchesError):
        v1.prepare()

    assert reason in v1.reasons()[name]


def test_an_unknown_label_or_split_in_the_metadata_is_reported(v2):
    rows = pq.read_table(v2.splits).to_pylist()
    rows[0]["labels"], rows[1]["split"] = ["Moon"], "val"
    pq.write_table(pa.Table.from_pylist(rows), v2.splits)

    with pytest.raises(BadPatchesError):
        v2.prepare()

    assert v2.reasons() == {
        rows[0]["patch_id"]: "metadata.parquet: unknown label 'Moon'",
        rows[1]["patch_id"]: "its split is 'val', not train, validation, test",
    }


def test_a_patch_in_no_split_is_reported(practice):
    name = practice.listed()[0]
    if practice.version is Version.V1:
        (practice.splits / "train.csv").write_text("\n".join(practice.listed()[1:]))
    else:
        table = pq.read_table(practice.splits)
        pq.write_table(table.filter(pa.compute.not_equal(table["patch_id"], name)), practice.splits)

    with pytest.raises(BadPatchesError):
        practice.prepare()

    assert practice.reasons() == {name: "in no split, and on no list of dropped patches"}


def test_a_patch_in_two_splits_is_reported(practice):
    name = practice.listed()[0]
    if practice.version is Version.V1:
        with (practice.splits / "val.csv").open("a") as file:
            file.write(f"{name}\r\n")
    else:
        rows = pq.read_table(practice.splits).to_pylist()
        twin = next(row for row in rows if row["patch_id"] == name) | {"split": "validation"}
        pq.write_table(pa.Table.from_pylist([*rows, twin]), practice.splits)

    with pytest.raises(BadPatchesError):
        practice.prepare()

    assert practice.reasons() == {name: "listed in train and in val"}


def test_a_duplicate_patch_is_reported(practice):
    folder = practice.folder(practice.listed()[0])
    if practice.version is Version.V1:
        copy = folder.with_name(folder.name.replace("_", "_0", 3).replace("_0MSIL2A_0", "_MSIL2A_"))
    else:
        copy = folder.parent.with_name("S2A_MSIL2A_20170101T101031_N9999_R022_T33UUP") / folder.name
    shutil.copytree(folder, copy)

    with pytest.raises(BadPatchesError):
        practice.prepare()

    [reason] = practice.reasons().values()
    assert "duplicate" in reason
    assert practice.prepare(skip_bad=True).splits[Split.TRAIN].patches == len(practice.listed())


def test_lists_of_the_other_version_are_refused(practice):
    other = Version.V2 if practice.version is Version.V1 else Version.V1

    with pytest.raises(PrepareError, match="BigEarthNet-"):
        prepare(Preparation(practice.path, other, practice.splits, practice.path / "out"))


def test_a_whole_archive_with_other_counts_than_the_official_ones_is_refused(practice, monkeypatch):
    # As if this practice archive were all that there is.
    monkeypatch.setitem(plan.OFFICIAL_ARCHIVE_SIZE, practice.version, PATCHES)

    with pytest.raises(PrepareError, match=r"the archive is whole, but gives train \d+, .* instead of train 2\d{5}, "):
        practice.prepare()

    assert not (practice.path / "out/manifest.json").exists()
    assert not practice.prepare("sample", limit=PATCHES // 2).has_official_sizes


def test_a_whole_archive_with_the_official_counts_is_accepted_as_such(whole, monkeypatch, capsys):
    sizes = {split: len(whole.listed(split)) for split in Split}
    monkeypatch.setitem(plan.OFFICIAL_ARCHIVE_SIZE, whole.version, PATCHES)
    monkeypatch.setitem(plan.OFFICIAL_SIZES, whole.version, sizes)

    assert main(list(whole.command("--out", str(whole.path / "out-official"))[3:])) == 0

    assert "Sizes: the official ones." in " ".join(capsys.readouterr().out.split())
    assert read_manifest(whole.path / "out-official").has_official_sizes


def test_another_plan_for_the_same_folder_is_refused(practice):
    practice.prepare()
    finished = contents(practice.path / "out")

    with pytest.raises(PrepareError, match="holds shards of other patches or another --limit"):
        practice.prepare(limit=5)

    assert contents(practice.path / "out") == finished


@pytest.mark.parametrize("name", ["manifest.json", "train/.settings", "notes.txt"])
def test_a_folder_with_other_files_is_refused_and_left_as_it_is(v2, name):
    path = v2.path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")

    with pytest.raises(PrepareError, match=r"out holds '.*', and is no --out of prepare; choose a folder that is new"):
        v2.prepare()

    assert contents(v2.path / "out") == {name: b"mine"}


def test_of_hidden_files_only_half_written_ones_are_removed(v2):
    v2.prepare()
    hidden = v2.path / "out/train/.nfs0001"
    half_written = [v2.path / "out" / name for name in (".manifest.json.12", "val/.labels.npy.12", "val/.00000.u16.12")]
    for path in (hidden, *half_written):
        path.write_bytes(b"x")

    v2.prepare()

    assert hidden.exists()
    assert not any(path.exists() for path in half_written)


def test_what_a_process_had_half_written_when_it_was_killed_is_removed(v2):
    v2.prepare()
    finished = contents(v2.path / "out")
    kill_in_mid_write = (
        "import os, pathlib, signal\n"
        "from storage.protocol.files import write_atomically\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_atomically(pathlib.Path({str(v2.path / 'out/manifest.json')!r}), b'half')"
    )
    subprocess.run((sys.executable, "-c", kill_in_mid_write), cwd=REPOSITORY)
    assert len(contents(v2.path / "out")) == len(finished) + 1

    v2.prepare()

    assert contents(v2.path / "out") == finished


def test_a_killed_command_goes_on_where_it_stopped(practice):
    out = practice.path / "out"
    process = subprocess.Popen(practice.command(workers=2), cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    wait_until(lambda: process.poll() is not None or len(list(out.glob("*/*.json"))) >= 3)
    process.kill()
    process.wait()
    half_written = out / "train/.00000.u16.1"
    half_written.write_bytes(b"half")
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*/*.json")}

    practice.prepare(patches_per_shard=1)
    practice.prepare("uninterrupted", patches_per_shard=1)

    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert contents(out) == contents(practice.path / "uninterrupted")


def test_a_killed_worker_is_an_error_after_which_the_same_command_goes_on(practice):
    def kill_workers(done: int, total: int) -> None:
        # All of them: what is left could finish before the death of one is noticed.
        for worker in multiprocessing.active_children() if done else ():
            worker.kill()

    with pytest.raises(
        PrepareError, match=r"a worker was killed, .* Give the same command again, with fewer --workers"
    ):
        prepare(practice.preparation(patches_per_shard=1, workers=2), kill_workers)
    assert not (practice.path / "out/manifest.json").exists()

    practice.prepare(patches_per_shard=1, workers=2)
    practice.prepare("uninterrupted", patches_per_shard=1)

    assert contents(practice.path / "out") == contents(practice.path / "uninterrupted")


def test_a_full_disk_is_an_error_that_loses_nothing(practice):
    # A limit on the size of files ends a write like a full disk does, and needs no disk of one's own.
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "from trainers.bigearthnet.command import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = [argument if argument != "1" else "4" for argument in practice.command()[3:]]

    answer = subprocess.run((sys.executable, "-c", program, *arguments), cwd=REPOSITORY, capture_output=True, text=True)

    assert answer.returncode == 2
    assert "error: cannot write to" in answer.stderr
    assert "give the same command again" in answer.stderr
    assert not list(practice.path.glob("out/*/.*"))
    assert practice.prepare().splits[Split.TRAIN].patches == len(practice.listed())


def test_a_disk_without_the_room_is_told_before_anything_is_written(practice, tmp_path_factory):
    with mount_small_disk(tmp_path_factory.mktemp("disk")) as disk:
        out = disk.outside_path / "out"
        (disk.outside_path / "other").write_bytes(b"x" * 6 * 2**20)

        with pytest.raises(PrepareError, match=r"has 2 MiB free, and \d MiB are to be written; make room"):
            prepare(Preparation(practice.path, practice.version, practice.splits, out))

        assert not list(out.glob("*/*"))


def test_a_shard_that_was_cut_short_is_found_before_training_and_mended_by_the_same_command(practice):
    practice.prepare()
    shard = practice.path / "out/train/00000.u16"
    shard.write_bytes(shard.read_bytes()[:-2])

    with pytest.raises(DatasetError, match=r"has 639998 bytes instead of 640000; delete it"):
        bigearthnet.build("", path=str(practice.path / "out"))

    practice.prepare()
    bigearthnet.build("", path=str(practice.path / "out"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["train/00000.u16", "train/labels.npy", "train/names.txt"])
def test_damage_that_leaves_the_size_is_found_by_verify_and_mended_by_the_same_command(v2, name, capsys):
    v2.prepare()
    out = v2.path / "out"
    whole = contents(out)
    verify = ["verify", "--data", str(out)]
    assert main(verify) == 0
    flip_a_bit(out / name)

    assert main(verify) == 2
    assert f"{out / name}: not what prepare wrote. Give the command" in capsys.readouterr().err

    v2.prepare(workers=2)
    assert contents(out) == whole


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"names": ["x"], "classes": [1], "sha256": "", "bad": []}'])
def test_a_shard_with_a_broken_record_is_written_again(v2, content):
    v2.prepare()
    whole = contents(v2.path / "out")
    (v2.path / "out/val/00000.json").write_bytes(content)

    v2.prepare()

    assert contents(v2.path / "out") == whole


def test_damaged_labels_are_not_trained_on(v2):
    v2.prepare()
    flip_a_bit(v2.path / "out/train/labels.npy")

    with pytest.raises(
        DatasetError, match=r"labels\.npy is not what prepare wrote: its sha256 is .*; give the command"
    ):
        bigearthnet.build("", path=str(v2.path / "out")).open(Split.TRAIN)


def test_the_manifest_counts_the_patches_of_each_class(whole):
    whole.prepare("out-counts")

    manifest = read_manifest(whole.path / "out-counts")
    for split, entries in manifest.splits.items():
        classes = Counter(name for patch in whole.listed(split) for name in true_classes(whole, patch))
        assert list(entries.class_counts) == list(CLASSES)
        assert entries.class_counts == {name: classes[name] for name in CLASSES}


def test_the_manifest_holds_the_checksum_of_every_file_and_list_and_the_versions(whole):
    out = whole.path / "out-checksums"
    whole.prepare("out-checksums")

    manifest = read_manifest(out)
    assert manifest.archive_version is whole.version
    assert manifest.software == {name: installed_version(name) for name in ("numpy", "pyarrow", "rasterio")}
    lists = whole.splits.glob("*") if whole.version is Version.V1 else whole.path.glob("*.parquet")
    assert manifest.lists_sha256 == {path.name: sha256(path) for path in lists}
    for split, entries in manifest.splits.items():
        assert [entry.path for entry in entries.shards] == sorted(
            f"{split}/{p.name}" for p in out.glob(f"{split}/*.u16")
        )
        assert [entry.sha256 for entry in entries.shards] == [sha256(out / entry.path) for entry in entries.shards]
        assert entries.labels_sha256 == sha256(out / split / "labels.npy")
        assert entries.names_sha256 == sha256(out / split / "names.txt")


def test_the_statistics_command_shows_each_band_beside_what_is_published(v2, capsys):
    manifest = v2.prepare()
    statistics = band_statistics(v2.path / "out", manifest, Split.VAL)

    assert main(["statistics", "--data", str(v2.path / "out"), "--split", "val"]) == 0

    shown = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    for band, (mean, std) in statistics.items():
        assert [band.name, f"{mean:.2f}", f"{std:.2f}", f"{band.mean:.2f}", f"{band.std:.2f}"] in shown


def test_statistics_are_those_of_the_pixels(whole):
    manifest = whole.prepare("out-statistics")
    samples, _ = read_split(whole.path / "out-statistics", Split.TRAIN)

    statistics = band_statistics(whole.path / "out-statistics", manifest, Split.TRAIN)

    assert [band.name for band in statistics][:2] == ["B01", "B02"]
    for band, (mean, std) in statistics.items():
        pixels = samples[:, band.offset : band.stop].astype(np.float64)
        assert mean == pytest.approx(pixels.mean(), rel=1e-12)
        assert std == pytest.approx(pixels.std(), rel=1e-9)


def read_split(out: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    source = bigearthnet.build("", path=str(out)).open(split)
    samples, labels = read_samples(source, np.arange(len(source)))
    assert samples.shape[1] == VALUES_PER_PATCH
    return samples, labels


def true_classes(practice: Practice, name: str) -> set[str]:
    if practice.version is Version.V1:
        labels = json.loads((practice.folder(name) / f"{name}_labels_metadata.json").read_text())["labels"]
        return {of for label in labels if (of := CLASS_OF_NAME[label]) is not None}
    return next(set(row["labels"]) for row in pq.read_table(practice.splits).to_pylist() if row["patch_id"] == name)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
