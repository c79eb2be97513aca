"""`python -m trainers.datasets.bigearthnet prepare | statistics | verify | synthesize`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from trainers.bigearthnet import PrepareError, Version
from trainers.bigearthnet.prepare import Preparation, prepare
from trainers.bigearthnet.prepared import Manifest, damaged_files, read_manifest
from trainers.bigearthnet.split_lists import V2_TABLE
from trainers.bigearthnet.statistics import band_statistics
from trainers.bigearthnet.synthesize import V1_LISTS_FOLDER, synthesize
from trainers.datasets import DatasetError, Split

Choice = TypeVar("Choice", bound=StrEnum)

_EXIT_BAD_INPUT = 2
_INTERRUPTED = {
    "prepare": "interrupted; give the same command again to go on",
    "synthesize": "interrupted; delete what is half done in --out before you give the same command again",
}


def main(arguments: list[str] | None = None) -> int:
    parsed = _parse(arguments)
    console = Console(stderr=True)
    try:
        if parsed.command == "prepare":
            _prepare(parsed, console)
        elif parsed.command == "statistics":
            _show_statistics(parsed, console)
        elif parsed.command == "verify":
            _verify(parsed.data, console)
        else:
            synthesize(parsed.version, parsed.patches, parsed.out, parsed.seed)
            lists = parsed.out / (V1_LISTS_FOLDER if parsed.version is Version.V1 else V2_TABLE)
            print(
                f"{parsed.patches} patches are in {parsed.out}. Next: python -m trainers.datasets.bigearthnet prepare "
                f"--version {parsed.version} --archive {parsed.out} --splits {lists} --out {parsed.out / 'shards'}"
            )
    except (PrepareError, DatasetError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return _EXIT_BAD_INPUT
    except KeyboardInterrupt:
        console.print(_INTERRUPTED.get(parsed.command, "interrupted"))
        return 130
    return 0


def _prepare(parsed: argparse.Namespace, console: Console) -> None:
    preparation = Preparation(
        archive=parsed.archive,
        version=parsed.version,
        splits=parsed.splits,
        out=parsed.out,
        workers=parsed.workers,
        limit=parsed.limit,
        skip_bad=parsed.skip_bad,
        patches_per_shard=parsed.patches_per_shard,
    )
    with _progress(console) as progress:
        task = progress.add_task("patches", total=None)

        def show(done: int, total: int) -> None:
            if progress.tasks[task].total is None:
                # An earlier run's shards are no part of this one's rate.
                progress.reset(task, total=total, completed=done)
                progress.update(task, done_before=done)
            else:
                progress.update(task, completed=done)

        manifest = prepare(preparation, show)
    Console().print(_counts(manifest))
    for shortfall in _shortfalls(manifest):
        console.print(f"note: {shortfall}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _show_statistics(parsed: argparse.Namespace, console: Console) -> None:
    manifest = read_manifest(parsed.data)
    with _progress(console) as progress:
        task = progress.add_task("patches", total=manifest.splits[parsed.split].patches)
        bands = band_statistics(parsed.data, manifest, parsed.split, lambda n: progress.advance(task, n))
    table = Table(title=f"{parsed.split}: digital numbers", title_justify="left")
    for heading in ("band", "mean", "std", "published mean", "published std"):
        table.add_column(heading, justify="left" if heading == "band" else "right")
    for band, (mean, std) in bands.items():
        table.add_row(band.name, f"{mean:.2f}", f"{std:.2f}", f"{band.mean:.2f}", f"{band.std:.2f}")
    Console().print(table)


def _verify(folder: Path, console: Console) -> None:
    manifest = read_manifest(folder)
    total = sum(split.patches for split in manifest.splits.values())
    with _progress(console) as progress:
        task = progress.add_task("patches", total=total)
        damaged = list(damaged_files(folder, manifest, lambda n: progress.advance(task, n)))
    if damaged:
        raise PrepareError(
            f"{', '.join(map(str, damaged))}: not what prepare wrote. Give the command that prepared {folder} again; "
            "it writes these anew and keeps the others."
        )
    print(f"{total} patches in {folder} are what prepare wrote.")


def _counts(manifest: Manifest) -> Table:
    table = Table(title=f"BigEarthNet {manifest.archive_version}", title_justify="left")
    table.add_column("class")
    for split in Split:
        table.add_column(split, justify="right")
    for name in manifest.splits[Split.TRAIN].class_counts:
        table.add_row(name, *(str(manifest.splits[split].class_counts[name]) for split in Split))
    table.add_section()
    table.add_row("patches", *(str(manifest.splits[split].patches) for split in Split))
    sizes = "the official ones" if manifest.has_official_sizes else "not the official ones: a sample, or practice data"
    dropped = ", ".join(f"{reason} {count}" for reason, count in manifest.dropped.items()) or "none"
    table.caption = f"Sizes: {sizes}. Dropped by the lists: {dropped}. Bad and left out: {manifest.bad_patches}."
    return table


def _shortfalls(manifest: Manifest) -> Iterator[str]:
    """What a sample lacks: nothing is less than was asked for without a word."""
    sizes = {split: manifest.splits[split].patches for split in Split}
    patches = sum(sizes.values())
    if manifest.limit is not None and patches < manifest.limit:
        yield (
            f"--limit is {manifest.limit}, and only {patches} patches are prepared: the archive holds no others that "
            "are in a split and can be used."
        )
    remedy = "" if manifest.limit is None else " Take a higher --limit."
    for split in (split for split, size in sizes.items() if size == 0):
        yield f"the split {split} is left without a patch; training needs some in each.{remedy}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        done = task.completed - task.fields.get("done_before", 0)
        return Text(f"{done / task.elapsed:.0f}/s" if task.elapsed and done else "")


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield progress


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainers.datasets.bigearthnet")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("prepare", help="read the downloaded archive and write shards")
    command.add_argument("--archive", type=Path, required=True, metavar="DIR", help="holds the unpacked archive")
    command.add_argument("--version", type=_one_of(Version), metavar="{v1,v2}", required=True)
    command.add_argument(
        "--splits", type=Path, required=True, help="v1: the folder of the official lists; v2: metadata.parquet"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the shards go")
    command.add_argument(
        "--workers", type=_at_least(1), default=len(os.sched_getaffinity(0)), help="default: all cores"
    )
    command.add_argument("--limit", type=_at_least(1), help="a random sample of so many patches, always the same")
    command.add_argument("--skip-bad", action="store_true", help="leave out patches that cannot be used")
    command.add_argument("--patches-per-shard", type=_at_least(1), default=1024, help="default: 1024, 164 MB")

    command = commands.add_parser("statistics", help="mean and standard deviation of each band of prepared data")
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the --out of prepare")
    command.add_argument("--split", type=_one_of(Split), metavar="{train,val,test}", default=Split.TRAIN)

    command = commands.add_parser("verify", help="read prepared data and compare them with their checksums")
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the --out of prepare")

    command = commands.add_parser("synthesize", help="write a practice archive in the true layout")
    command.add_argument("--patches", type=_at_least(1), required=True, help="those that the lists drop included")
    command.add_argument("--version", type=_one_of(Version), metavar="{v1,v2}", required=True)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--seed", type=_at_least(0), default=0)
    return parser.parse_args(arguments)


def _one_of(choices: type[Choice]) -> Callable[[str], Choice]:
    def parse(text: str) -> Choice:
        try:
            return choices(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}") from None

    return parse


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is not {minimum} or more")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
