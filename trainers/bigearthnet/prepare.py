"""Prepare: read every patch once and write shards, in parallel, to go on after a kill where it stopped.

    OUT/train/00000.u16        rows of a shard, raw: little-endian uint16 [patches, 80000]
    OUT/train/00000.json       its record, written last: a shard without one is made again
    OUT/bad_patches.csv        every patch that could not be used, with the reason
    OUT/train/labels.npy, names.txt, OUT/manifest.json    written when all is done

Every file is written under a temporary name and renamed. Nothing depends on the number of workers.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from storage.trial_dir import write_atomically
from trainers.bigearthnet import PrepareError, Version
from trainers.bigearthnet.archive import Archive, PatchError, reading
from trainers.bigearthnet.bands import BYTES_PER_PATCH, ROW_DTYPE, VALUES_PER_PATCH
from trainers.bigearthnet.plan import OFFICIAL_SIZES, Plan, ShardPlan, make_plan
from trainers.bigearthnet.prepared import MANIFEST_NAME, Manifest, ShardEntry, SplitManifest, write_split
from trainers.bigearthnet.split_lists import read_split_lists
from trainers.datasets import Split

REPORT_NAME = "bad_patches.csv"
_PLAN_NAME = "plan.json"
_LOCK_NAME = ".lock"

# A temporary name of one of prepare's own files: with the process that writes it.
_HALF_WRITTEN = re.compile(
    r"\.(\d{5,}\.u16|\d{5,}\.json|labels\.npy|names\.txt|plan\.json|manifest\.json|bad_patches\.csv)\.\d+"
)


@dataclass(frozen=True)
class Preparation:
    """What to prepare."""

    archive: Path
    version: Version
    splits: Path
    out: Path
    workers: int = 1
    limit: int | None = None
    skip_bad: bool = False
    patches_per_shard: int = 1024


class BadPatchesError(PrepareError):
    """There are patches that cannot be used, and leave to skip them was not given."""


@dataclass(frozen=True)
class ShardRecord:
    """What is in a shard."""

    names: tuple[str, ...]
    classes: tuple[int, ...]
    sha256: str
    bad: tuple[tuple[str, str], ...]


def prepare(preparation: Preparation, on_shard: Callable[[int, int], None] = lambda done, total: None) -> Manifest:
    """Write the shards that are not there yet, and the manifest.

    Args:
        on_shard: Called with (patches done, patches in all), first with those of an earlier run.

    Raises:
        PrepareError: The input or the output cannot be used, or (BadPatchesError) patches are bad; those are all in
            OUT/bad_patches.csv.
    """
    archive = Archive.find(preparation.version, preparation.archive)
    plan = make_plan(
        archive,
        read_split_lists(preparation.version, preparation.splits),
        preparation.patches_per_shard,
        preparation.limit,
    )
    out = preparation.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_folder(out)
        with FileLock(out / _LOCK_NAME, timeout=0):
            _begin(plan, out)
            _write_shards(plan, archive, preparation, on_shard)
            return _finish(plan, preparation)
    except Timeout as error:
        raise PrepareError(f"another prepare is writing to {out}; wait for it, or choose another --out.") from error
    except OSError as error:
        raise PrepareError(
            f"cannot write to {out}: {error}. Make room and give the same command again; finished shards are kept."
        ) from error
    except BrokenProcessPool as error:
        raise PrepareError(
            "a worker was killed, probably for want of memory. Give the same command again, with fewer --workers; "
            "finished shards are kept."
        ) from error


def _refuse_foreign_folder(out: Path) -> None:
    """plan.json is the first file of a preparation: where there are others and not this one, somebody else's lie."""
    names = {path.name for path in out.iterdir()}
    foreign = sorted(name for name in names if name != _LOCK_NAME and not _HALF_WRITTEN.fullmatch(name))
    if foreign and _PLAN_NAME not in names:
        raise PrepareError(
            f"{out} holds {foreign[0]!r}{f' and {len(foreign) - 1} more' if foreign[1:] else ''}, and is no --out of "
            "prepare; choose a folder that is new or empty."
        )


def _begin(plan: Plan, out: Path) -> None:
    digest = plan.digest()
    path = out / _PLAN_NAME
    if not path.exists():
        write_atomically(path, json.dumps({"digest": digest}).encode())
    elif json.loads(path.read_bytes())["digest"] != digest:
        raise PrepareError(
            f"{out} holds shards of other patches or another --limit or --patches-per-shard; choose another --out "
            "or empty this one."
        )
    # Not before: a command that is refused leaves what another one has finished.
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for split in Split:
        (out / split).mkdir(exist_ok=True)
    _remove_half_written(out)


def _remove_half_written(out: Path) -> None:
    for folder in (out, *(out / split for split in Split)):
        for path in folder.glob(".*"):
            if _HALF_WRITTEN.fullmatch(path.name):
                path.unlink()


def _write_shards(plan: Plan, archive: Archive, preparation: Preparation, on_shard: Callable[[int, int], None]) -> None:
    out, total = preparation.out, plan.patch_count
    done = sum(len(shard.names) for shard in plan.shards() if _is_finished(shard, out))
    on_shard(done, total)
    missing = (shard for shard in plan.shards() if not _is_finished(shard, out))
    needed = (min(total, plan.archive_size) - done) * BYTES_PER_PATCH
    if (free := shutil.disk_usage(out).free) < needed:
        raise PrepareError(
            f"{out} has {free / 2**20:,.0f} MiB free, and {needed / 2**20:,.0f} MiB are to be written; make room."
        )
    for patches in _in_parallel(missing, archive, out, preparation.workers):
        done += patches
        on_shard(done, total)


def _in_parallel(shards: Iterator[ShardPlan], archive: Archive, out: Path, workers: int) -> Iterator[int]:
    """Write the shards, and give the number of patches of each as it is finished."""
    if workers == 1:
        for shard in shards:
            yield write_shard(shard, archive, out)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent) as pool:
        # Two a worker: enough to keep all busy, and the plan of the whole archive is never in flight.
        pending: set[Future[int]] = {
            pool.submit(write_shard, shard, archive, out) for shard in islice(shards, 2 * workers)
        }
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                    pending |= {pool.submit(write_shard, shard, archive, out) for shard in islice(shards, 1)}
        finally:
            for future in pending:
                future.cancel()


def _die_with_parent() -> None:
    """A worker must not outlive a killed command: the next one would write the same shards beside it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_shard(shard: ShardPlan, archive: Archive, out: Path) -> int:
    """Read the patches of one shard and write it with its record. Gives their number, bad ones included."""
    names: list[str] = []
    all_classes: list[int] = []
    bad: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    path = out / f"{shard.stem}.u16"
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    row = np.empty(VALUES_PER_PATCH, ROW_DTYPE)
    try:
        with reading(), scratch.open("wb", buffering=0) as file:
            for index, name in enumerate(shard.names):
                try:
                    classes = _read_patch(shard, index, archive, row)
                except PatchError as error:
                    bad.append((name, str(error)))
                    continue
                _write_all(file, row)
                digest.update(row.data)
                names.append(name)
                all_classes.append(classes)
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    record = ShardRecord(tuple(names), tuple(all_classes), digest.hexdigest(), tuple(bad))
    write_atomically(path.with_suffix(".json"), json.dumps(asdict(record)).encode())
    return len(shard.names)


def _read_patch(shard: ShardPlan, index: int, archive: Archive, row: np.ndarray) -> int:
    """Fill the row with a patch's pixels, and give its classes."""
    folder_name = shard.folder_names[index]
    try:
        classes = archive.read_classes(folder_name) if shard.classes is None else shard.classes[index]
        if classes == 0:
            raise PatchError("none of its labels is in the 19 classes, though no list drops it")
        archive.read_pixels(folder_name, row)
    except PatchError as error:
        if not archive.folder(folder_name).is_dir():
            raise PatchError(f"in the split {shard.split}, but not in the archive") from error
        raise
    return classes


def _write_all(file: io.FileIO, row: np.ndarray) -> None:
    view = row.data.cast("B")
    while view:
        # Near the end of a disk or a quota, less than all is written before the error comes.
        view = view[file.write(view) :]


def _is_finished(shard: ShardPlan, out: Path) -> bool:
    """Whether the shard is there and whole. One with bad patches is read again, because they may be mended."""
    try:
        record = read_record(shard, out)
        size = (out / f"{shard.stem}.u16").stat().st_size
    except FileNotFoundError:
        return False
    return not record.bad and size == len(record.names) * BYTES_PER_PATCH


def read_record(shard: ShardPlan, out: Path) -> ShardRecord:
    values = json.loads((out / f"{shard.stem}.json").read_bytes())
    bad = tuple((name, reason) for name, reason in values["bad"])
    return ShardRecord(tuple(values["names"]), tuple(values["classes"]), values["sha256"], bad)


def _finish(plan: Plan, preparation: Preparation) -> Manifest:
    """Report what is bad, check the counts, and write labels, names and the manifest.

    Raises:
        BadPatchesError: Patches are bad and not to be skipped.
        PrepareError: The archive is whole, but the counts are not the official ones.
    """
    out, version = preparation.out, preparation.version
    bad_count = _write_report(plan, out)
    if bad_count and not preparation.skip_bad:
        raise BadPatchesError(
            f"{bad_count} patches cannot be used; {out / REPORT_NAME} has the reason for each. Mend them, or give the "
            "same command with --skip-bad to leave them out."
        )
    splits = {split: _finish_split(plan, split, out) for split in Split}
    sizes = {split: manifest.patches for split, manifest in splits.items()}
    is_official = sizes == OFFICIAL_SIZES[version]
    if plan.is_of_whole_archive and not is_official and not bad_count:
        wanted = ", ".join(f"{split} {size}" for split, size in OFFICIAL_SIZES[version].items())
        raise PrepareError(
            f"the archive is whole, but gives {', '.join(f'{split} {size}' for split, size in sizes.items())} patches "
            f"instead of {wanted}; --splits is not the official {version} one."
        )
    manifest = Manifest.of_this_software(
        archive_version=version,
        lists_sha256=plan.lists.sha256,
        limit=plan.limit,
        has_official_sizes=is_official,
        dropped=plan.dropped,
        bad_patches=bad_count,
        splits=splits,
    )
    # Once more: a worker of a killed command may have outlived it by a moment.
    _remove_half_written(out)
    manifest.write(out)
    return manifest


def _write_report(plan: Plan, out: Path) -> int:
    """List every bad patch in OUT/bad_patches.csv, sorted; gives their number."""
    bad = sorted({*plan.bad, *(entry for shard in plan.shards() for entry in read_record(shard, out).bad)})
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("patch", "reason"), *bad])
    write_atomically(out / REPORT_NAME, text.getvalue().encode())
    return len(bad)


def _finish_split(plan: Plan, split: Split, out: Path) -> SplitManifest:
    names: list[str] = []
    classes: list[int] = []
    entries: list[ShardEntry] = []
    for shard in plan.shards():
        if shard.split is split:
            record = read_record(shard, out)
            names += record.names
            classes += record.classes
            entries.append(ShardEntry(f"{shard.stem}.u16", len(record.names), record.sha256))
    return write_split(out, split, names, np.array(classes, np.uint32), tuple(entries))
