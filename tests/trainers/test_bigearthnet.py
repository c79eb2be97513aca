"""The order in which ranks read shards, and what the device makes of a row."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from cluster.attempt import rank_environment
from cluster.launchers import launcher
from storage.protocol.attempts import AttemptRequest, RankLayout
from storage.protocol.records import ComponentSpec, Outcome, TrialSpec
from storage.protocol.trial_dir import TrialDir
from tests.architecture.sources import imported_names
from tests.small_disk import SmallDisk, mount_small_disk
from trainers.bigearthnet import Version
from trainers.bigearthnet.prepare import Preparation, prepare
from trainers.bigearthnet.shard_source import RUN, ShardSource
from trainers.bigearthnet.synthesize import synthesize
from trainers.components import ComponentError
from trainers.datasets import DatasetError, Split, bigearthnet, read_samples


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("practice")
    synthesize(Version.V2, 40, folder)
    prepare(Preparation(folder, Version.V2, folder, folder / "out", patches_per_shard=6))
    return folder / "out"


def source(patches: tuple[int, ...], window: int = 64) -> ShardSource:
    """One whose shards are not there: enough to ask for orders."""
    paths = tuple(Path(f"{number}.u16") for number in range(len(patches)))
    return ShardSource(paths, patches, np.zeros((sum(patches), 19), np.uint8), 80_000, window)


@pytest.mark.parametrize("patches", [(100, 100, 37), (16,), (3,), (1, 0, 5, 2), (64,) * 9])
@pytest.mark.parametrize("world_size", [1, 2, 3, 16])
def test_an_epoch_trains_on_equally_many_samples_per_rank_none_twice_and_leaves_out_only_the_remainder(
    patches, world_size
):
    orders = [source(patches).training_order(7, 3, rank, world_size) for rank in range(world_size)]

    per_rank = sum(patches) // world_size
    assert [len(order) for order in orders] == [per_rank] * world_size
    together = set(np.concatenate(orders).tolist())
    assert len(together) == per_rank * world_size
    assert together <= set(range(sum(patches)))


@pytest.mark.parametrize("world_size", [1, 3, 16])
def test_every_sample_is_evaluated_once(world_size):
    orders = [source((10, 3, 8)).evaluation_order(rank, world_size) for rank in range(world_size)]

    assert sorted(np.concatenate(orders)) == list(range(21))
    assert max(map(len, orders)) - min(map(len, orders)) <= 1


def test_an_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        return source((200, 200)).training_order(seed, epoch, 1, 2).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


@pytest.mark.parametrize("patches", [(9, 9, 5), (23,)])
def test_the_samples_that_sit_an_epoch_out_change_from_epoch_to_epoch(patches):
    all_samples = set(range(23))
    left_out = [
        all_samples
        - set(np.concatenate([source(patches).training_order(0, epoch, rank, 4) for rank in range(4)]).tolist())
        for epoch in range(40)
    ]

    # 23 samples over 4 ranks: 5 each, and 3 over.
    assert {len(samples) for samples in left_out} == {3}
    assert len(set(map(frozenset, left_out))) > 1
    assert not set.intersection(*left_out)


def test_each_rank_reads_its_own_shards():
    patches = (64,) * 32
    shards_of = [set((source(patches).training_order(0, 0, rank, 8) // 64).tolist()) for rank in range(8)]

    assert [len(shards) for shards in shards_of] == [4] * 8
    assert len(set.union(*shards_of)) == 32


def test_a_window_is_read_in_runs_and_handed_over_mixed():
    order = source((640,), window=4 * RUN).training_order(0, 0, 0, 1)

    for start in range(0, len(order), 4 * RUN):
        window = order[start : start + 4 * RUN]
        assert len({row // RUN for row in window.tolist()}) == 4
        assert not (np.diff(window) == 1).all()


def test_what_is_known_of_the_real_bands_does_not_come_from_the_generated_data():
    imported = {name for name, _ in imported_names(Path("trainers/bigearthnet/bands.py"))}

    assert not [name for name in imported if name.startswith("trainers.datasets")]


@pytest.mark.parametrize("bands", ["all", "10m+20m", "rgb"])
def test_rows_are_read_from_several_shards_in_the_order_that_is_asked_for(prepared, bands):
    dataset = bigearthnet.build("", path=str(prepared), bands=bands)
    source = dataset.open(Split.TRAIN)
    rows = np.concatenate([np.fromfile(path, "<u2") for path in source.paths]).reshape(-1, 80_000)
    indices = np.random.default_rng(0).permutation(len(source))

    samples, _ = read_samples(source, indices)

    np.testing.assert_array_equal(samples, rows[indices, : dataset.sample_shape[0]])


@pytest.mark.parametrize(("bands", "names"), [("rgb", ["B04", "B03", "B02"]), ("10m+20m", None), ("all", None)])
def test_the_device_standardises_and_resamples_as_scipy_does(prepared, bands, names):
    dataset = bigearthnet.build("", path=str(prepared), bands=bands)
    samples, _ = read_samples(dataset.open(Split.TRAIN), np.arange(2))

    images = tf.function(dataset.to_model_input)(tf.constant(samples)).numpy()

    assert names is None or [band.name for band in dataset.bands] == names
    for index, band in enumerate(dataset.bands):
        pixels = band.of(samples[1]).astype(np.float64)
        full = scipy.ndimage.zoom(pixels, 120 // band.size, order=1, mode="nearest", grid_mode=True)
        # Six significant digits of standardised values: float32 with a few roundings.
        np.testing.assert_allclose(images[1, ..., index], (full - band.mean) / band.std, rtol=0, atol=1e-5)


def test_nearest_repeats_each_pixel(prepared):
    dataset = bigearthnet.build("", path=str(prepared), resampling="nearest")
    samples, _ = read_samples(dataset.open(Split.TRAIN), np.arange(1))

    images = dataset.to_model_input(tf.constant(samples)).numpy()

    for index, band in enumerate(dataset.bands):
        full = band.of(samples[0]).repeat(120 // band.size, 0).repeat(120 // band.size, 1)
        np.testing.assert_allclose(images[0, ..., index], (full - band.mean) / band.std, rtol=0, atol=1e-5)


def test_augmentation_gives_all_eight_flips_and_turns_of_an_image_and_repeats_itself(prepared):
    dataset = bigearthnet.build("", path=str(prepared), augment=True)
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    images = tf.constant(np.repeat(image, 64, axis=0))

    turned = dataset.augment(images, tf.constant([0, 5])).numpy()

    square = image[0, ..., 0]
    expected = {np.rot90(side, turns).tobytes() for side in (square, square.T) for turns in range(4)}
    assert {one[..., 0].tobytes() for one in turned} == expected
    np.testing.assert_array_equal(turned, dataset.augment(images, tf.constant([0, 5])))
    assert (turned != dataset.augment(images, tf.constant([0, 6])).numpy()).any()


def test_augmentation_is_off_by_default(prepared):
    images = tf.random.normal([4, 3, 3, 12])

    assert bigearthnet.build("", path=str(prepared)).augment(images, tf.constant([0, 0])) is images


def test_ranks_of_a_node_share_one_copy_in_its_memory(prepared, tmp_path):
    dataset = bigearthnet.build("", path=str(prepared), node_cache=str(tmp_path))
    first = dataset.open(Split.TRAIN)
    copies = {path: path.stat().st_mtime_ns for path in first.paths}

    second = bigearthnet.build("", path=str(prepared), node_cache=str(tmp_path)).open(Split.TRAIN)

    assert second.paths == first.paths
    assert {path: path.stat().st_mtime_ns for path in copies} == copies
    assert all(path.is_relative_to(tmp_path) for path in copies)
    for one, other in zip(read_samples(second, np.arange(5)), read_samples(first, np.arange(5)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def small_disk(tmp_path_factory) -> Iterator[SmallDisk]:
    with mount_small_disk(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


def free_bytes(disk: SmallDisk) -> int:
    return shutil.disk_usage(disk.outside_path).free


def test_a_node_without_the_room_reads_the_shared_files_and_says_so_once(prepared, small_disk):
    (small_disk.outside_path / "other").write_bytes(bytes(7 * 2**20))
    free_before = free_bytes(small_disk)
    program = (
        "from trainers.datasets import Split, bigearthnet\n"
        f"dataset = bigearthnet.build('', path={str(prepared)!r}, node_cache={str(small_disk.outside_path)!r})\n"
        "print(dataset.open(Split.TRAIN).paths[0].parent)"
    )
    layout = RankLayout(nodes=1, ranks_per_node=2, cpus_per_rank=1)
    environment = rank_environment(AttemptRequest(small_disk.path, 0, 1, layout, "mpirun"), os.environ)

    answer = subprocess.run(
        launcher("mpirun").argv(layout, (sys.executable, "-c", program)),
        env=environment,
        capture_output=True,
        text=True,
    )

    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == [str(prepared / "train")] * 2
    assert answer.stderr.count("the train split is read from") == 1
    assert re.search(r"node_cache='/proc/.*' on \S+: 0.\d+ GiB can be used and 0.\d+ GiB are needed;", answer.stderr)
    assert free_before - free_bytes(small_disk) < 2**16


def test_a_node_that_fills_up_while_shards_are_copied_keeps_none_of_them(prepared, small_disk, monkeypatch, caplog):
    def say_there_is_room_and_take_it(path: Path) -> object:
        usage = disk_usage(path)
        (small_disk.outside_path / "other").write_bytes(bytes(usage.free - 2 * 2**20))
        return usage

    disk_usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", say_there_is_room_and_take_it)
    dataset = bigearthnet.build("", path=str(prepared), node_cache=str(small_disk.outside_path))

    source = dataset.open(Split.TRAIN)

    assert {path.parent for path in source.paths} == {prepared / "train"}
    assert "No space left on device; the train split is read from" in caplog.text
    assert not [path for path in small_disk.outside_path.rglob("*") if path.suffix in {".u16", ".part"}]


def test_the_room_for_mpi_and_nccl_is_left_free(prepared, small_disk):
    shards = (prepared / "train").glob("*.u16")
    room = sum(path.stat().st_size for path in shards) + 2**17
    (small_disk.outside_path / "other").write_bytes(bytes(free_bytes(small_disk) - room))
    dataset = bigearthnet.build("", path=str(prepared), node_cache=str(small_disk.outside_path))

    assert not dataset.open(Split.TRAIN).paths[0].is_relative_to(small_disk.outside_path)


def test_what_a_killed_rank_left_half_copied_makes_room(prepared, tmp_path):
    dataset = bigearthnet.build("", path=str(prepared), node_cache=str(tmp_path))
    [shard, *_] = dataset.open(Split.TRAIN).paths
    shard.rename(shard.with_name("99999.part"))

    dataset.open(Split.TRAIN)

    assert shard.exists()
    assert not list(tmp_path.rglob("*.part"))


def test_a_node_cache_that_cannot_be_written_to_is_an_error_that_names_it(prepared, tmp_path):
    (tmp_path / "file").touch()
    dataset = bigearthnet.build("", path=str(prepared), node_cache=str(tmp_path / "file"))

    with pytest.raises(DatasetError, match=r"node_cache='.*/file': .*Not a directory.*; name a folder"):
        dataset.open(Split.TRAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": "60m"}, "bands='60m'; it must be one of all, 10m"),
        ({"resampling": "cubic"}, "resampling='cubic'; it must be one of bilinear, nearest"),
        ({"augment": 1}, "augment=1; it must be true or false"),
        ({"shuffle_window": 0}, "shuffle_window=0; it must be an integer of 1 or more"),
    ],
)
def test_an_impossible_option_is_refused_with_the_rule(prepared, options, message):
    with pytest.raises(ComponentError, match=message):
        bigearthnet.build("", path=str(prepared), **options)


def test_two_ranks_train_an_epoch_on_prepared_patches(prepared, tmp_path):
    trial = TrialDir(tmp_path / "trial")
    trial.create(
        TrialSpec(
            study_name="test",
            trial_number=0,
            seed=0,
            epochs=1,
            world_size=2,
            loader_batch_size=4,
            model=ComponentSpec("small_resnet", {"width": 4, "blocks": [1]}),
            dataset=ComponentSpec("bigearthnet", {"path": str(prepared), "augment": True}),
            optimizer=ComponentSpec("sgd", {"learning_rate": 0.01, "momentum": 0.9}),
            batch_policy=ComponentSpec("constant", {"global_batch_size": 8}),
            cache_dir=str(tmp_path / "cache"),
        )
    )
    layout = RankLayout(nodes=1, ranks_per_node=2, cpus_per_rank=1)
    program = (sys.executable, "-m", "trainers", "--threads", "1", str(trial.path))
    environment = rank_environment(AttemptRequest(trial.path, 0, 1, layout, "mpirun"), os.environ)

    subprocess.run(launcher("mpirun").argv(layout, program), env=environment, check=True)

    attempt = trial.attempt(1)
    result, [metrics] = attempt.read_result(), attempt.read_metrics()
    assert result is not None
    assert result.outcome is Outcome.COMPLETED
    samples = bigearthnet.build("", path=str(prepared)).sizes()[Split.TRAIN]
    assert metrics.samples == samples // 8 * 8
