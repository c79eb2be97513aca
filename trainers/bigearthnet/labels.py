"""The 43 CORINE land-cover names of a v1 patch, and the 19 classes of BigEarthNet-19 that they become.

Source: Sumbul et al. 2021, BigEarthNet-MM, table 1. A set of classes is an integer with one bit for each.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_NAMES_OF_CLASS = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}

DROPPED_NAMES = (
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Bare rock",
    "Burnt areas",
    "Intertidal flats",
)
"""Names of v1 that belong to none of the 19 classes."""

CLASSES = tuple(_NAMES_OF_CLASS)

CLASS_OF_NAME: dict[str, str | None] = {
    **{name: class_name for class_name, names in _NAMES_OF_CLASS.items() for name in names},
    **dict.fromkeys(DROPPED_NAMES),
}
"""From each of the 43 names to its class; None where it is dropped."""

_BIT = {class_name: 1 << index for index, class_name in enumerate(CLASSES)}


class UnknownLabelError(ValueError):
    """A label is none of those that its version knows."""


def encode_43(names: Iterable[str]) -> int:
    """The classes of a v1 patch; 0 if all its names are dropped.

    Raises:
        UnknownLabelError: A name is not among the 43.
    """
    classes = 0
    for name in names:
        if name not in CLASS_OF_NAME:
            raise UnknownLabelError(f"unknown label {name!r}")
        class_name = CLASS_OF_NAME[name]
        classes |= 0 if class_name is None else _BIT[class_name]
    return classes


def encode_19(names: Iterable[str]) -> int:
    """The classes of a v2 patch.

    Raises:
        UnknownLabelError: A name is not among the 19.
    """
    classes = 0
    for name in names:
        if name not in _BIT:
            raise UnknownLabelError(f"unknown label {name!r}")
        classes |= _BIT[name]
    return classes


def decode(classes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Sets of classes [n] to labels uint8 [n, 19] of 0 and 1."""
    bits = np.arange(len(CLASSES), dtype=np.uint32)
    return ((np.asarray(classes, np.uint32)[:, None] >> bits) & 1).astype(np.uint8)
