"""Predict with an export: a CSV table for images, or a GeoTIFF of class probabilities for a georeferenced scene."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from storage.protocol.exports import PredictRequest  # noqa: E402
from study.model_process import run_trainers_program  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    request = PredictRequest(arguments.export_dir, tuple(arguments.inputs), arguments.out, arguments.stride)
    return run_trainers_program("trainers.predict", request)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="study/predict.py", description=__doc__)
    parser.add_argument("export_dir", metavar="DIR", help="what study/export.py has written")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="an image (PNG, JPEG, TIFF), a folder of images or a .npy array of stored samples; or one scene",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help=".csv: a row per image; .tif: a georeferenced map of one scene. Must not exist",
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="PIXELS",
        help="of the windows of a scene, and the side of a pixel of the map; default: half the model's input",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
