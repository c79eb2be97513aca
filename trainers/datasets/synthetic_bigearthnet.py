"""Generated patches with the bands and the classes of BigEarthNet-19, so that any machine can run a study.

A class is a mixture of materials, a material a reflectance spectrum. A patch is cut into one to five regions, each of
one class with a mixture of its own; the patch has an illumination, each pixel noise. Some classes mix the same
materials in other shares, and one label in twelve is wrong, so no model gets all right. Scores are not BigEarthNet's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.bigearthnet.bands import STATISTICS
from trainers.components import ComponentError
from trainers.datasets import ArraySource, Split, standardise

if TYPE_CHECKING:
    import tensorflow as tf

# Surface reflectance times 10,000, in the order of STATISTICS: rough values, not measurements.
_SPECTRA = {
    "clear water": (350, 320, 280, 180, 150, 120, 110, 100, 90, 80, 60, 40),
    "turbid water": (400, 450, 600, 480, 450, 330, 310, 290, 270, 250, 120, 80),
    "broad leaves": (200, 250, 450, 300, 750, 2600, 3300, 3500, 3600, 3500, 1700, 800),
    "needles": (180, 200, 320, 220, 480, 1500, 1800, 1900, 2000, 1950, 900, 400),
    "grass": (300, 380, 700, 450, 1100, 2900, 3700, 3900, 4000, 3900, 2100, 1100),
    "dry plants": (450, 600, 900, 1100, 1500, 2000, 2250, 2400, 2550, 2600, 2900, 2000),
    "soil": (500, 700, 1000, 1300, 1600, 1800, 1950, 2100, 2250, 2300, 2700, 2300),
    "peat": (250, 320, 450, 450, 700, 1100, 1300, 1400, 1500, 1500, 1200, 700),
    "sand": (1400, 1800, 2300, 2700, 2900, 3000, 3100, 3250, 3300, 3200, 3700, 3300),
    "concrete": (900, 1100, 1300, 1450, 1600, 1750, 1850, 1950, 2050, 2050, 2200, 1900),
}


class _LandCover(NamedTuple):
    weight: float
    """How often a patch holds the class, relative to the others: in proportion to BigEarthNet, but 2 at least, because
    a small validation split would hold no sample of the two rarest."""
    roughness: float
    """Standard deviation of the brightness from pixel to pixel, relative to its mean."""
    shares: dict[str, float]
    """Of the materials, on average."""


_LAND_COVERS = {
    "Urban fabric": _LandCover(13, 0.30, {"concrete": 0.6, "grass": 0.2, "broad leaves": 0.1, "soil": 0.1}),
    "Industrial or commercial units": _LandCover(2, 0.30, {"concrete": 0.9, "soil": 0.1}),
    "Arable land": _LandCover(39, 0.05, {"soil": 0.45, "grass": 0.35, "dry plants": 0.2}),
    "Permanent crops": _LandCover(6, 0.15, {"soil": 0.45, "broad leaves": 0.35, "dry plants": 0.2}),
    "Pastures": _LandCover(20, 0.03, {"grass": 0.9, "dry plants": 0.1}),
    "Complex cultivation patterns": _LandCover(21, 0.25, {"grass": 0.45, "soil": 0.3, "dry plants": 0.25}),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": _LandCover(
        26, 0.15, {"grass": 0.4, "broad leaves": 0.35, "dry plants": 0.15, "soil": 0.1}
    ),
    "Agro-forestry areas": _LandCover(7, 0.20, {"dry plants": 0.6, "broad leaves": 0.3, "soil": 0.1}),
    "Broad-leaved forest": _LandCover(28, 0.08, {"broad leaves": 0.95, "grass": 0.05}),
    "Coniferous forest": _LandCover(32, 0.08, {"needles": 0.95, "peat": 0.05}),
    "Mixed forest": _LandCover(35, 0.12, {"needles": 0.5, "broad leaves": 0.5}),
    "Natural grassland and sparsely vegetated areas": _LandCover(2, 0.05, {"dry plants": 0.6, "grass": 0.4}),
    "Moors, heathland and sclerophyllous vegetation": _LandCover(
        3, 0.12, {"dry plants": 0.4, "peat": 0.3, "needles": 0.3}
    ),
    "Transitional woodland, shrub": _LandCover(
        29, 0.20, {"broad leaves": 0.35, "needles": 0.3, "dry plants": 0.2, "grass": 0.15}
    ),
    "Beaches, dunes, sands": _LandCover(2, 0.08, {"sand": 0.9, "dry plants": 0.1}),
    "Inland wetlands": _LandCover(4, 0.10, {"peat": 0.7, "grass": 0.2, "turbid water": 0.1}),
    "Coastal wetlands": _LandCover(2, 0.10, {"peat": 0.4, "turbid water": 0.45, "dry plants": 0.15}),
    "Inland waters": _LandCover(13, 0.03, {"turbid water": 0.9, "clear water": 0.1}),
    "Marine waters": _LandCover(13, 0.03, {"clear water": 0.9, "turbid water": 0.1}),
}

# Of the number of regions, 1 to 5: 2.9 labels a patch, as in BigEarthNet.
_REGION_COUNT_PROBABILITIES = (0.15, 0.25, 0.28, 0.20, 0.12)
_MAX_REGIONS = len(_REGION_COUNT_PROBABILITIES)

# Patches made at once. Each block has a random stream of its own, so a longer split begins with the shorter one's.
_BLOCK = 64


def build(
    cache_dir: str | Path,
    *,
    train: int = 2048,
    val: int = 512,
    test: int = 512,
    size: int = 32,
    seed: int = 0,
    noise: float = 1.0,
) -> SyntheticBigEarthNet:
    """Patches that depend on nothing but the options; they are made in memory, and only when a split is opened.

    Args:
        cache_dir: Not used; making the patches again takes less time than reading them would save.
        train, val, test: Patches of each split.
        size: Height and width, in pixels.
        noise: Scales all that blurs the classes: mixtures, illumination, pixels and wrong labels. At 0 they are plain.

    Raises:
        ComponentError: An option is out of its range.
    """
    for name, count, least in (("train", train, 1), ("val", val, 1), ("test", test, 0), ("seed", seed, 0)):
        if not isinstance(count, int) or count < least:
            raise ComponentError(f"synthetic_bigearthnet: {name}={count!r}; it must be an integer of {least} or more.")
    if not isinstance(size, int) or not 8 <= size <= 120:
        raise ComponentError(f"synthetic_bigearthnet: size={size!r}; it must be from 8 to 120 pixels, an integer.")
    if not isinstance(noise, int | float) or not 0 <= noise <= 10:
        raise ComponentError(f"synthetic_bigearthnet: noise={noise!r}; it must be from 0 to 10.")
    return SyntheticBigEarthNet({Split.TRAIN: train, Split.VAL: val, Split.TEST: test}, size, seed, noise)


@dataclass(frozen=True)
class SyntheticBigEarthNet:
    """Samples are uint16 [size, size, 12], digital numbers."""

    patch_counts: dict[Split, int]
    size: int
    seed: int
    noise: float

    class_names = tuple(_LAND_COVERS)
    band_names = tuple(STATISTICS)
    sample_dtype = np.dtype(np.uint16)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        return (self.size, self.size, len(STATISTICS))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.sample_shape

    def sizes(self) -> dict[Split, int]:
        return dict(self.patch_counts)

    def open(self, split: Split) -> ArraySource:
        patch_count = self.patch_counts[split]
        samples = np.empty((patch_count, *self.sample_shape), np.uint16)
        labels = np.empty((patch_count, len(self.class_names)), np.uint8)
        for block, start in enumerate(range(0, patch_count, _BLOCK)):
            rng = np.random.default_rng((self.seed, list(Split).index(split), block))
            block_samples, block_labels = _make_patches(rng, self.size, self.noise)
            samples[start : start + _BLOCK] = block_samples[: patch_count - start]
            labels[start : start + _BLOCK] = block_labels[: patch_count - start]
        return ArraySource(samples, labels)

    def to_model_input(self, samples: tf.Tensor) -> tf.Tensor:
        mean, std = np.array(list(STATISTICS.values()), np.float32).T
        return standardise(samples, mean, std)


def _make_patches(rng: np.random.Generator, size: int, noise: float) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """One block: uint16 [_BLOCK, size, size, 12], digital numbers, and labels uint8 [_BLOCK, 19]."""
    classes, is_used = _draw_classes(rng)
    region = _draw_regions(rng, size, is_used)
    patch = np.arange(_BLOCK)[:, None, None]

    # Maps leave out what is small and grow old: a label is not always what the satellite sees.
    is_mislabelled = rng.random(classes.shape) < min(1.0, 0.08 * noise)
    seen_classes = np.where(is_mislabelled, rng.permuted(classes, axis=0), classes)

    spectra = _draw_spectra(rng, seen_classes, noise)[patch, region]
    roughness = np.array([cover.roughness for cover in _LAND_COVERS.values()], np.float32)[seen_classes][patch, region]
    brightness = 1 + roughness * rng.standard_normal(region.shape, np.float32)
    illumination = np.exp(0.1 * noise * rng.standard_normal((_BLOCK, 1, 1), np.float32))
    band_std = np.array(list(STATISTICS.values()), np.float32)[:, 1]

    pixels = spectra * (illumination * brightness)[..., None]
    pixels += 0.1 * noise * band_std * rng.standard_normal(pixels.shape, np.float32)

    labels = np.zeros((_BLOCK, len(_LAND_COVERS)), np.uint8)
    # From the regions that were drawn, not from those that were meant: one may have no pixel of its own.
    labels[patch, classes[patch, region]] = 1
    return np.clip(np.rint(pixels), 0, np.iinfo(np.uint16).max).astype(np.uint16), labels


def _draw_classes(rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Different classes for the regions of each patch, int64 [_BLOCK, _MAX_REGIONS], and which regions it has."""
    weights = np.array([cover.weight for cover in _LAND_COVERS.values()])
    # The largest of log weights with Gumbel noise are a weighted draw without replacement (the Gumbel-max trick).
    keys = np.log(weights) + rng.gumbel(size=(_BLOCK, len(weights)))
    classes = np.argsort(-keys, axis=1)[:, :_MAX_REGIONS]
    region_count = rng.choice(_MAX_REGIONS, size=_BLOCK, p=_REGION_COUNT_PROBABILITIES) + 1
    return classes, np.arange(_MAX_REGIONS) < region_count[:, None]


def _draw_regions(rng: np.random.Generator, size: int, is_used: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The region of each pixel, int64 [_BLOCK, size, size]: that of the nearest of the regions' centres."""
    centres = rng.uniform(0, size, (2, _BLOCK, 1, 1, _MAX_REGIONS)).astype(np.float32)
    pixel = np.arange(size, dtype=np.float32) + 0.5
    distance_sq = (pixel[:, None, None] - centres[0]) ** 2 + (pixel[None, :, None] - centres[1]) ** 2
    nearest: NDArray[np.int64] = np.argmin(np.where(is_used[:, None, None, :], distance_sq, np.inf), axis=-1)
    return nearest


def _draw_spectra(rng: np.random.Generator, classes: NDArray[np.int64], noise: float) -> NDArray[np.float32]:
    """The spectrum of each region, float32 [_BLOCK, _MAX_REGIONS, 12], from a mixture around that of its class."""
    shares_of_classes = [[cover.shares.get(name, 0.0) for name in _SPECTRA] for cover in _LAND_COVERS.values()]
    shares = np.array(shares_of_classes)[classes]
    shares *= np.exp(0.25 * noise * rng.standard_normal(shares.shape))
    shares /= shares.sum(axis=-1, keepdims=True)
    spectra: NDArray[np.float64] = shares @ np.array(list(_SPECTRA.values()))
    return spectra.astype(np.float32)
