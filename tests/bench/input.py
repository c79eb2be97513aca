"""The input path's benchmark: `python -m tests.bench.input` prints JSON; measure_input() gives it as rows.

One core and the page cache, on a practice archive. What is compared takes turns, and the median of the ratios counts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio

from tests.bench.table import Row
from trainers.bigearthnet import Version
from trainers.bigearthnet.archive import Archive, reading
from trainers.bigearthnet.bands import BYTES_PER_PATCH, ROW, ROW_DTYPE, VALUES_PER_PATCH
from trainers.bigearthnet.plan import ShardPlan, make_plan
from trainers.bigearthnet.prepare import Preparation, prepare
from trainers.bigearthnet.prepared import read_names
from trainers.bigearthnet.shard import write_shard
from trainers.bigearthnet.split_lists import V2_TABLE, read_split_lists
from trainers.bigearthnet.synthesize import synthesize
from trainers.datasets import Split, bigearthnet, read_samples

_PATCHES = 320
_BATCH = 64
_TURNS = 3
_EPOCHS = 16
"""At once: a rank of sixteen reads 16,000 patches an epoch, and a short run would measure how it begins."""
_COPIES = 8
"""Of the 280 listed patches, where prepare's memory is measured: 2,000 further ones, of which 1 KiB each would show."""
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
        Row("KiB of prepare's peak memory for each further patch", case, found["memory"], "<= 4"),
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
        return sum(batch.sample_count for batch in read_batches(source, order, _BATCH))

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
        # Here and not around the run: GDAL's settings are each thread's own, and this is one of TensorFlow's.
        with reading():
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
        with reading():
            for name in shard.names:
                for band in ROW:
                    with rasterio.open(archive.folder(name) / f"{name}_{band.name}.tif", sharing=False) as tiff:
                        tiff.read(1)
        return len(shard.names)

    rates = _rates(ours, bare)
    return {"prepare": _ratio(rates[ours], rates[bare]), "prepared_per_s": median(rates[ours])}


def _memory(folder: Path) -> float:
    """KiB of peak memory that prepare takes for each further patch of the archive, each run in its own process.

    Some 2 KiB are expected of archives so small: lists and folders are read in blocks of 8,192, which neither fills.
    The lists of the whole v2 archive take 0.6 KiB a patch at their peak, its shards' records 0.1.
    """
    # Not getrusage: its peak is at least that of the process which started this one, and TensorFlow is in that.
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from trainers.bigearthnet.command import main\n"
        "main(sys.argv[1:])\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )

    def peak_kib(archive: Path, out: str) -> int:
        arguments = ("--archive", archive, "--version", "v2", "--splits", archive, "--out", folder / out)
        command = (sys.executable, "-c", program, "prepare", *arguments, "--workers", "1", "--patches-per-shard", "64")
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        shutil.rmtree(folder / out)
        return int(run.stdout.splitlines()[-1])

    small, large = folder / "archive", folder / "copies"
    patches = _copy_patches(small, large)
    return (peak_kib(large, "memory-large") - peak_kib(small, "memory-small")) / (patches * (_COPIES - 1))


def _copy_patches(archive: Path, copies: Path) -> int:
    """An archive of so many times the listed patches, whose files are links. Gives the number of those patches."""
    table = pq.read_table(archive / V2_TABLE)
    found, names = Archive.find(Version.V2, archive), table["patch_id"].to_pylist()
    target = Archive(Version.V2, copies / found.root.name)
    copied_names = []
    for copy in range(_COPIES):
        for name in names:
            # Another place on the same tile; the true ones have two digits.
            place, row = name.rsplit("_", 1)
            copied_name = f"{place}_{copy + 1}{row}"
            target.folder(copied_name).mkdir(parents=True)
            for band in ROW:
                link = target.folder(copied_name) / f"{copied_name}_{band.name}.tif"
                link.hardlink_to(found.folder(name) / f"{name}_{band.name}.tif")
            copied_names.append(copied_name)
    table = pa.concat_tables([table] * _COPIES)
    column = table.schema.get_field_index("patch_id")
    pq.write_table(table.set_column(column, "patch_id", pa.array(copied_names)), copies / V2_TABLE)
    return len(names)


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
