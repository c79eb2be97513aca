"""Prepare: read every patch once and write shards, in parallel, to go on after a kill where it stopped.

    OUT/train/00000.u16        rows of a shard, raw: little-endian uint16 [patches, 80000]
    OUT/train/00000.json       its record, written last: a shard without one is made again
    OUT/bad_patches.csv        every patch that could not be used, with the reason
    OUT/train/labels.npy, names.txt, OUT/manifest.json    written when all is done

Every file is written under a temporary name and renamed. Nothing depends on the number of workers.
"""

from __future__ import annotations

import csv
import errno
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
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout

from storage.protocol.files import write_atomically
from trainers.bigearthnet import PrepareError, Version
from trainers.bigearthnet.archive import Archive
from trainers.bigearthnet.bands import BYTES_PER_PATCH, SHARD_FORMAT
from trainers.bigearthnet.plan import OFFICIAL_SIZES, Plan, ShardPlan, make_plan
from trainers.bigearthnet.prepared import MANIFEST_NAME, Manifest, ShardEntry, SplitManifest, write_split
from trainers.bigearthnet.shard import ShardRecord, has_record, read_finished, write_shard
from trainers.bigearthnet.split_lists import read_split_lists
from trainers.datasets import Split

REPORT_NAME = "bad_patches.csv"
_PLAN_NAME = "plan.json"
_LOCK_NAME = ".lock"
# A full disk, a used up quota, and a limit on the size of files.
_NO_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# A temporary name of one of prepare's own files: with the process that writes it, and its host as write_atomically has.
_HALF_WRITTEN = re.compile(
    r"\.(\d{5,}\.u16|\d{5,}\.json|labels\.npy|names\.txt|plan\.json|manifest\.json|bad_patches\.csv)"
    r"\.(\d+|.+-\d+-[0-9a-f]{8})"
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


Result = TypeVar("Result")


class BadPatchesError(PrepareError):
    """There are patches that cannot be used, and --skip-bad was not given."""


def prepare(preparation: Preparation, on_shard: Callable[[int, int], None] = lambda done, total: None) -> Manifest:
    """Write the shards that are not there yet, and the manifest.

    Args:
        on_shard: Called with (patches done, patches in all), first with those of an earlier run.

    Raises:
        PrepareError: The input or the output cannot be used, or (BadPatchesError) patches are bad; those are all in
            OUT/bad_patches.csv.
    """
    archive = Archive.find(preparation.version, preparation.archive)
    lists = read_split_lists(preparation.version, preparation.splits)
    try:
        plan = make_plan(archive, lists, preparation.patches_per_shard, preparation.limit)
    except OSError as error:
        raise PrepareError(f"the archive cannot be read: {error}; its folders must be readable to you.") from error
    out = preparation.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_folder(out)
        with FileLock(out / _LOCK_NAME, timeout=0):
            _begin(plan, out)
            records = _write_shards(plan, archive, preparation, on_shard)
            return _finish(plan, records, preparation)
    except Timeout as error:
        raise PrepareError(f"another prepare is writing to {out}; wait for it, or choose another --out.") from error
    except OSError as error:
        remedy = "--out must be a folder that you may write to."
        if error.errno in _NO_SPACE_ERRNOS:
            remedy = "Make room and give the same command again; finished shards are kept."
        raise PrepareError(f"cannot write to {out}: {error}. {remedy}") from error
    except BrokenProcessPool as error:
        raise PrepareError(
            "a worker was killed, probably because memory ran out. Give the same command again, with fewer --workers; "
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
    elif _read_digest(path) != digest:
        raise PrepareError(
            f"{out} holds shards of other patches or another --limit or --patches-per-shard; choose another --out "
            "or empty this one."
        )
    # Not before: a command that is refused leaves what another one has finished.
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for split in Split:
        (out / split).mkdir(exist_ok=True)
    _remove_half_written(out)


def _read_digest(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise PrepareError(
            f"{path} is damaged ({error!r}), so nothing says which patches its shards hold; empty {path.parent} or "
            "choose another --out."
        ) from error


def _remove_half_written(out: Path) -> None:
    for folder in (out, *(out / split for split in Split)):
        for path in folder.glob(".*"):
            if _HALF_WRITTEN.fullmatch(path.name):
                path.unlink()


def _write_shards(
    plan: Plan, archive: Archive, preparation: Preparation, on_shard: Callable[[int, int], None]
) -> dict[str, ShardRecord]:
    """Write the shards that are not there or not whole. Gives the record of each, by its stem."""
    out, total, workers = preparation.out, plan.patch_count, preparation.workers
    found = (shard for shard in plan.shards() if has_record(shard, out))
    checked = _in_parallel(partial(read_finished, out=out), found, workers)
    records = {stem: record for stem, record in checked if record is not None}
    done = sum(record.planned_patches for record in records.values())
    on_shard(done, total)
    needed = (min(total, plan.archive_size) - done) * BYTES_PER_PATCH
    if (free := shutil.disk_usage(out).free) < needed:
        raise PrepareError(
            f"{out} has {free / 2**20:,.0f} MiB free, and {needed / 2**20:,.0f} MiB are to be written; make room."
        )
    finished = frozenset(records)
    missing = (shard for shard in plan.shards() if shard.stem not in finished)
    for stem, record in _in_parallel(partial(write_shard, archive=archive, out=out), missing, workers):
        records[stem] = record
        done += record.planned_patches
        on_shard(done, total)
    return records


def _in_parallel(
    work: Callable[[ShardPlan], Result], shards: Iterator[ShardPlan], workers: int
) -> Iterator[tuple[str, Result]]:
    """Do the work for each shard, and give the shard's stem and the result as it is finished."""
    if workers == 1:
        for shard in shards:
            yield shard.stem, work(shard)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent) as pool:
        # Two a worker: enough to keep all busy, and the plan of the whole archive is never in flight.
        pending: dict[Future[Result], str] = {
            pool.submit(work, shard): shard.stem for shard in islice(shards, 2 * workers)
        }
        try:
            while pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
                    pending |= {pool.submit(work, shard): shard.stem for shard in islice(shards, 1)}
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


def _finish(plan: Plan, records: dict[str, ShardRecord], preparation: Preparation) -> Manifest:
    """Report what is bad, check the counts, and write labels, names and the manifest.

    Raises:
        BadPatchesError: Patches are bad and not to be skipped.
        PrepareError: The archive is whole, but the counts are not the official ones.
    """
    out, version = preparation.out, preparation.version
    bad_count = _write_report(plan, records, out)
    if bad_count and not preparation.skip_bad:
        raise BadPatchesError(
            f"{bad_count} patches cannot be used; {out / REPORT_NAME} has the reason for each. Fix them, or give the "
            "same command with --skip-bad to leave them out."
        )
    splits = {split: _finish_split(plan, records, split, out) for split in Split}
    sizes = {split: manifest.patches for split, manifest in splits.items()}
    is_official = sizes == OFFICIAL_SIZES[version]
    if plan.is_of_whole_archive and not is_official and not bad_count:
        wanted = ", ".join(f"{split} {size}" for split, size in OFFICIAL_SIZES[version].items())
        raise PrepareError(
            f"the archive is whole, but gives {', '.join(f'{split} {size}' for split, size in sizes.items())} patches "
            f"instead of {wanted}; --splits is not the official {version} one."
        )
    manifest = Manifest(
        shard_format=SHARD_FORMAT,
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


def _write_report(plan: Plan, records: dict[str, ShardRecord], out: Path) -> int:
    """List every bad patch in OUT/bad_patches.csv, sorted; gives their number."""
    bad = sorted({*plan.bad, *(entry for record in records.values() for entry in record.bad)})
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("patch", "reason"), *bad])
    write_atomically(out / REPORT_NAME, text.getvalue().encode())
    return len(bad)


def _finish_split(plan: Plan, records: dict[str, ShardRecord], split: Split, out: Path) -> SplitManifest:
    names: list[str] = []
    classes: list[int] = []
    entries: list[ShardEntry] = []
    for shard in plan.shards():
        if shard.split is split:
            record = records[shard.stem]
            names += record.names
            classes += record.classes
            entries.append(ShardEntry(f"{shard.stem}.u16", len(record.names), record.sha256))
    return write_split(out, split, names, np.array(classes, np.uint32), tuple(entries))
