"""The input path's benchmark: `python -m tests.bench.input` prints JSON; measure_input() gives it as rows.

One core and the page cache, on a practice archive. What is compared takes turns, and the median of the ratios counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import rasterio

from tests.bench.table import Row
from trainers.bigearthnet import Version
from trainers.bigearthnet.archive import Archive
from trainers.bigearthnet.bands import BYTES_PER_PATCH, ROW, ROW_DTYPE, VALUES_PER_PATCH
from trainers.bigearthnet.plan import ShardPlan, make_plan
from trainers.bigearthnet.prepare import Preparation, prepare
from trainers.bigearthnet.prepared import read_names
from trainers.bigearthnet.shard import write_shard
from trainers.bigearthnet.split_lists import read_split_lists
from trainers.bigearthnet.synthesize import synthesize
from trainers.datasets import Split, bigearthnet, read_samples

_PATCHES = 320
_BATCH = 64
_TURNS = 3
_EPOCHS = 16
"""At once: a rank of sixteen reads 16,000 patches an epoch, and a short run would measure how it begins."""
_A100_IMAGES_PER_S = 3454
"""EfficientNet-B0 at 224 x 224 on one A100, mixed precision."""
_GPUS_PER_NODE = 4


def measure_input() -> list[Row]:
    """The input path's ratios against their targets."""
    run = subprocess.run((sys.executable, "-m", "tests.bench.input"), stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    case = "bigearthnet, 1 core, page cache"
    return [
        Row("loader / raw reads of the same shards into one buffer", case, found["raw"], ">= 0.5"),
        Row("loader / tf.data over the GeoTIFFs", case, found["tiff"], ">= 20"),
        Row("loader / TFRecord of upsampled float32", case, found["tfrecord"], ">= 2"),
        Row("prepare / bare rasterio read", case, found["prepare"], ">= 0.7"),
        Row("peak memory of prepare, 4 x the patches", case, found["memory"], "<= 1.1"),
        Row("cores to feed 4 GPUs with 3,454 images/s each", case, found["cores"]),
    ]


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        synthesize(Version.V2, _PATCHES, folder / "archive")
        prepare(Preparation(folder / "archive", Version.V2, folder / "archive", folder / "shards"))
        print(json.dumps({**_loader(folder), **_prepare(folder), "memory": _memory(folder)}))


def _loader(folder: Path) -> dict[str, float]:
    import tensorflow as tf

    from trainers.loader import read_batches

    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    dataset = bigearthnet.build("", path=str(folder / "shards"))
    source = dataset.open(Split.TRAIN)
    order = np.tile(source.training_order(0, 0, 0, 1), _EPOCHS)
    names = read_names(folder / "shards", Split.TRAIN)
    archive = Archive.find(Version.V2, folder / "archive")
    records = folder / "upsampled.tfrecord"
    _write_tfrecord(records, dataset, source)

    def ours() -> int:
        return sum(len(labels) for _, labels in read_batches(source, order, _BATCH))

    buffer = bytearray(_BATCH * BYTES_PER_PATCH)

    def raw() -> int:
        count = 0
        for _ in range(_EPOCHS):
            for path in source.paths:
                with path.open("rb", buffering=0) as shard:
                    while read := shard.readinto(buffer):
                        count += read
        return count // BYTES_PER_PATCH

    def read_tiffs(name: bytes) -> np.ndarray:
        row = np.empty(VALUES_PER_PATCH, ROW_DTYPE)
        archive.read_pixels(name.decode(), row)
        return row

    def tiffs() -> int:
        files = tf.data.Dataset.from_tensor_slices(names[:_BATCH])
        rows = files.map(lambda name: tf.numpy_function(read_tiffs, [name], tf.uint16, stateful=False))
        return sum(len(batch) for batch in rows.batch(_BATCH).prefetch(2))

    def tfrecord() -> int:
        images = tf.data.TFRecordDataset(str(records)).map(
            lambda record: tf.reshape(tf.io.decode_raw(record, tf.float32), [120, 120, 12])
        )
        return sum(len(batch) for batch in images.batch(_BATCH).prefetch(2))

    rates = _rates(ours, raw, tiffs, tfrecord)
    return {
        "raw": _ratio(rates[ours], rates[raw]),
        "tiff": _ratio(rates[ours], rates[tiffs]),
        "tfrecord": _ratio(rates[ours], rates[tfrecord]),
        "images_per_s": median(rates[ours]),
        "cores": _GPUS_PER_NODE * _A100_IMAGES_PER_S / median(rates[ours]),
    }


def _write_tfrecord(path: Path, dataset: bigearthnet.BigEarthNet, source: bigearthnet.ShardSource) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for start in range(min(len(source), 3 * _BATCH)):
            samples, _ = read_samples(source, np.array([start]))
            writer.write(dataset.to_model_input(tf.constant(samples)).numpy().tobytes())


def _prepare(folder: Path) -> dict[str, float]:
    archive = Archive.find(Version.V2, folder / "archive")
    plan = make_plan(archive, read_split_lists(Version.V2, folder / "archive"), 64)
    shard: ShardPlan = next(plan.shards())
    (folder / "again/train").mkdir(parents=True)

    def ours() -> int:
        return len(write_shard(shard, archive, folder / "again").names)

    def bare() -> int:
        for name in shard.names:
            for band in ROW:
                with rasterio.open(archive.folder(name) / f"{name}_{band.name}.tif") as tiff:
                    tiff.read(1)
        return len(shard.names)

    rates = _rates(ours, bare)
    return {"prepare": _ratio(rates[ours], rates[bare]), "prepared_per_s": median(rates[ours])}


def _memory(folder: Path) -> float:
    """Peak memory of a prepare of the whole archive over that of a quarter of it, each in its own process."""
    program = (
        "import resource, sys\n"
        "from trainers.bigearthnet.command import main\n"
        "main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak(limit: int) -> int:
        archive = str(folder / "archive")
        arguments = ("--archive", archive, "--version", "v2", "--splits", archive, "--limit", str(limit))
        out = ("--out", str(folder / f"memory-{limit}"), "--workers", "1", "--patches-per-shard", "16")
        command = (sys.executable, "-c", program, "prepare", *arguments, *out)
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        return int(run.stdout.splitlines()[-1])

    return peak(_PATCHES * 4 // 5) / peak(_PATCHES // 5)


def _rates(*runs: Callable[[], int]) -> dict[Callable[[], int], list[float]]:
    """Items a second of each, in turns, after one turn that is not counted."""
    rates: dict[Callable[[], int], list[float]] = {run: [] for run in runs}
    for _ in range(1 + _TURNS):
        for run in runs:
            started = time.perf_counter()
            items = run()
            rates[run].append(items / (time.perf_counter() - started))
    return {run: rate[1:] for run, rate in rates.items()}


def _ratio(numerator: list[float], denominator: list[float]) -> float:
    return median(one / other for one, other in _pairs(numerator, denominator))


def _pairs(one: list[float], other: list[float]) -> Iterator[tuple[float, float]]:
    return zip(one, other, strict=True)


if __name__ == "__main__":
    main()
