"""BigEarthNet-19 from shards: `python -m trainers.datasets.bigearthnet prepare --help` makes them from the archive.

A sample is a row of a shard as it lies on the disk: all bands in their own resolutions, 160 KB instead of the 345 KB of
twelve full-size bands. The device cuts it up, standardises it and brings the coarse bands to 120 x 120 pixels.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from storage.protocol.files import is_disk_full
from trainers.augmentation import turn_at_random
from trainers.bigearthnet.bands import BAND_SETS, BYTES_PER_PATCH, PATCH_SIZE, Band
from trainers.bigearthnet.labels import CLASSES
from trainers.bigearthnet.prepared import Manifest, ShardEntry, read_labels, read_manifest
from trainers.bigearthnet.shard_source import ShardSource
from trainers.components import ComponentError
from trainers.datasets import DatasetError, Split

if TYPE_CHECKING:
    import tensorflow as tf

_LOG = logging.getLogger(__name__)

_RESAMPLINGS = ("bilinear", "nearest")

# Of the node cache's file system, for others: MPI and NCCL keep buffers in /dev/shm, too, and when it is full they die
# without a word.
_LEFT_FREE = 0.05


def build(
    cache_dir: str | Path,
    *,
    path: str,
    bands: str = "all",
    resampling: str = "bilinear",
    augment: bool = False,
    shuffle_window: int = 1024,
    node_cache: str | None = None,
) -> BigEarthNet:
    """Prepared patches. Reads the manifest and looks at the shards' sizes, and at no pixel.

    Args:
        cache_dir: Not used; the shards are what would be cached.
        path: The --out of prepare.
        bands: "all" (12), "10m+20m" (10) or "rgb" (B04, B03, B02).
        resampling: Of the 20 m and 60 m bands to 10 m: "bilinear" (pixels are areas) or "nearest".
        augment: Whether training images are flipped and turned by quarters at random.
        shuffle_window: Samples of a rank that are mixed with one another; more than a loader batch mixes better, and
            reads less in one piece.
        node_cache: A folder in the node's memory, such as one under /dev/shm, into which the splits that are used are
            copied once for all ranks of the node. The files stay for the next trial; nothing here removes them. Where
            they do not fit, the shared files are read.

    Raises:
        ComponentError: An option is out of its range.
        DatasetError: The data are not there or not whole.
    """
    for name, value, valid in (("bands", bands, tuple(BAND_SETS)), ("resampling", resampling, _RESAMPLINGS)):
        if value not in valid:
            raise ComponentError(f"bigearthnet: {name}={value!r}; it must be one of {', '.join(valid)}.")
    if not isinstance(augment, bool):
        raise ComponentError(f"bigearthnet: augment={augment!r}; it must be true or false.")
    if not isinstance(shuffle_window, int) or shuffle_window < 1:
        raise ComponentError(f"bigearthnet: shuffle_window={shuffle_window!r}; it must be an integer of 1 or more.")
    folder = Path(path).expanduser()
    return BigEarthNet(
        folder=folder,
        manifest=read_manifest(folder),
        bands=BAND_SETS[bands],
        resampling=resampling,
        is_augmented=augment,
        shuffle_window=shuffle_window,
        node_cache=None if node_cache is None else Path(node_cache),
    )


@dataclass(frozen=True)
class BigEarthNet:
    """Samples are uint16 [values]: the beginning of a row, as far as the band set needs it."""

    folder: Path
    manifest: Manifest
    bands: tuple[Band, ...]
    resampling: str
    is_augmented: bool
    shuffle_window: int
    node_cache: Path | None

    class_names = CLASSES
    sample_dtype = np.dtype(np.uint16)

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)

    @property
    def sample_shape(self) -> tuple[int]:
        return (max(band.stop for band in self.bands),)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (PATCH_SIZE, PATCH_SIZE, len(self.bands))

    def sizes(self) -> dict[Split, int]:
        return {split: self.manifest.splits[split].patches for split in Split}

    def open(self, split: Split) -> ShardSource:
        """The samples of one split.

        Raises:
            DatasetError: The labels are not there or not these patches', or the node cache cannot be written to.
        """
        shards = self.manifest.splits[split].shards
        folder = self.folder if self.node_cache is None else self._copy_to_node(split, self.node_cache)
        return ShardSource(
            paths=tuple(folder / shard.path for shard in shards),
            patches=tuple(shard.patches for shard in shards),
            labels=read_labels(self.folder, split, self.manifest),
            values=self.sample_shape[0],
            shuffle_window=self.shuffle_window,
        )

    def to_model_input(self, samples: tf.Tensor) -> tf.Tensor:
        from keras import ops

        # Bands of one resolution together: three resizes instead of twelve.
        images, order = [], []
        for size in sorted({band.size for band in self.bands}, reverse=True):
            alike = sorted((band for band in self.bands if band.size == size), key=lambda band: band.offset)
            images.append(self._to_full_size(_cut(samples, alike), size))
            order += alike
        together = images[0] if len(images) == 1 else ops.concatenate(images, axis=-1)
        return ops.take(together, [order.index(band) for band in self.bands], axis=-1)

    def augment(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """One of the eight flips and quarter turns for each image, all alike likely; nothing unless asked for.

        Args:
            images: float32 [n, height, width, bands].
            seed: int64 [2]; the same seed gives the same turns.
        """
        return turn_at_random(images, seed) if self.is_augmented else images

    def _to_full_size(self, images: tf.Tensor, size: int) -> tf.Tensor:
        from keras import ops

        if size == PATCH_SIZE:
            return images
        return ops.image.resize(
            images, (PATCH_SIZE, PATCH_SIZE), interpolation=self.resampling, data_format="channels_last"
        )

    def _copy_to_node(self, split: Split, cache: Path) -> Path:
        """Copy the shards of a split that are not in the node's memory yet; gives the folder to read from.

        The first rank of a node copies, the others wait. Without room for the whole split, the shared files are read.
        """
        target, shards = cache / self._fingerprint, self.manifest.splits[split].shards
        try:
            (target / split).mkdir(parents=True, exist_ok=True)
            with FileLock(target / f"{split}.lock"):
                try:
                    _copy_missing(self.folder, target, split, shards)
                except OSError:
                    # Nobody reads a split of which shards are missing, and its memory may be the training's.
                    shutil.rmtree(target / split, ignore_errors=True)
                    raise
        except OSError as error:
            if not is_disk_full(error):
                raise DatasetError(
                    f"node_cache={str(cache)!r}: {error}; name a folder that can be written to, or leave it out."
                ) from error
            if _is_first_of_node():
                _LOG.warning(
                    "node_cache=%r on %s: %s; the %s split is read from %s instead. Make room, or leave it out.",
                    *(str(cache), socket.gethostname(), error.strerror, split, self.folder),
                )
            return self.folder
        return target

    @cached_property
    def _fingerprint(self) -> str:
        """Tells apart preparations that share a cache."""
        import hashlib

        checksums = "".join(shard.sha256 for split in self.manifest.splits.values() for shard in split.shards)
        return f"bigearthnet-{hashlib.sha256(checksums.encode()).hexdigest()[:16]}"


def _copy_missing(folder: Path, target: Path, split: Split, shards: Sequence[ShardEntry]) -> None:
    """Copy the shards that are not in target yet.

    Raises:
        OSError: They cannot be copied; with ENOSPC where there is too little room, before anything is.
    """
    for left_by_a_killed_rank in (target / split).glob("*.part"):
        left_by_a_killed_rank.unlink()
    missing = [shard for shard in shards if not (target / shard.path).exists()]
    needed = sum(shard.patches for shard in missing) * BYTES_PER_PATCH
    memory = shutil.disk_usage(target)
    free = max(0, memory.free - int(memory.total * _LEFT_FREE))
    if needed > free:
        raise OSError(errno.ENOSPC, f"{free / 2**30:.3g} GiB can be used and {needed / 2**30:.3g} GiB are needed")
    for shard in missing:
        scratch = (target / shard.path).with_suffix(".part")
        shutil.copyfile(folder / shard.path, scratch)
        scratch.replace(target / shard.path)


def _is_first_of_node() -> bool:
    """Whether this rank speaks for its node; where no launcher says so, each rank does."""
    return os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def _cut(samples: tf.Tensor, bands: list[Band]) -> tf.Tensor:
    """Bands of one size in the order of a row, standardised: float32 [n, size, size, bands]."""
    from keras import ops

    size, block = bands[0].size, samples[:, bands[0].offset : bands[-1].stop]
    # As few pieces as possible: bands that lie one after the other are cut out together.
    if len(bands) * size**2 == bands[-1].stop - bands[0].offset:
        pieces = ops.reshape(block, [-1, len(bands), size, size])
    else:
        pieces = ops.stack([ops.reshape(samples[:, b.offset : b.stop], [-1, size, size]) for b in bands], axis=1)
    mean = np.array([band.mean for band in bands], np.float32)[:, None, None]
    std = np.array([band.std for band in bands], np.float32)[:, None, None]
    # Standardised before they are transposed: TensorFlow moves a cast behind a transposition that follows it, and has
    # no fast one for uint16.
    return ops.transpose((ops.cast(pieces, "float32") - mean) * (1.0 / std), (0, 2, 3, 1))


if __name__ == "__main__":
    from trainers.bigearthnet.command import main

    sys.exit(main())
