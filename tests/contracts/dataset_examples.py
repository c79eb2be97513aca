"""The smallest example of each data set: what tests/contracts/test_datasets.py builds it with.

A new data set trainers/datasets/NAME.py adds a function here that puts its files, if it reads any, into a folder and
gives the options of `build`, and an entry NAME in EXAMPLES. Train and val need three samples or more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainers.bigearthnet import Version
from trainers.bigearthnet.prepare import Preparation, prepare
from trainers.bigearthnet.synthesize import synthesize
from trainers.datasets.eurosat import CLASSES


def synthetic_bigearthnet(folder: Path) -> dict[str, Any]:
    return {"train": 12, "val": 6, "test": 4, "size": 8}


def image_folder(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    lines = ["image,split,grass,water"]
    for split, count in (("train", 12), ("val", 6), ("test", 4)):
        for number in range(count):
            name = f"{split}{number:02d}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name)
            lines.append(f"{name},{split},{number % 2},{number // 2 % 2}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return {"path": str(folder)}


def bigearthnet(folder: Path) -> dict[str, Any]:
    synthesize(Version.V1, 40, folder / "archive")
    prepare(Preparation(folder / "archive", Version.V1, folder / "archive/splits", folder / "shards"))
    return {"path": str(folder / "shards")}


def eurosat(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir()
        for number in range(1, 4):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name}_{number}.jpg", quality=95)
    return {"path": str(folder)}


EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "bigearthnet": bigearthnet,
    "eurosat": eurosat,
    "image_folder": image_folder,
    "synthetic_bigearthnet": synthetic_bigearthnet,
}
