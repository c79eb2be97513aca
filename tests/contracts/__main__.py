"""Runs the contract tests of a kind with a component of your own:
`PYTHONPATH=FOLDER python -m tests.contracts KIND NAME --set OPTION=VALUE`, in the folder of this project.

FOLDER holds your package, NAME is as in a config. Give a data set a small example of its data: all of it is read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.overrides import OverrideError, apply_override
from storage.protocol.records import ComponentSpec
from study.catalog import CatalogError, check_options
from tests.contracts import subjects

SUITES = {
    "model": "test_models.py",
    "dataset": "test_datasets.py",
    "optimizer": "test_optimizers.py",
    "learning_rate": "test_learning_rates.py",
    "batch_policy": "test_batch_policies.py",
}
_HERE = Path(__file__).parent


class _OnlyTheContract:
    """Leaves out tests of bundled components by their names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self._is_of_the_contract(item)]

    def _is_of_the_contract(self, item: pytest.Item) -> bool:
        fixtures = getattr(item, "fixturenames", ())
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        return bool({"name", "example", "dataset"} & set(fixtures)) and parameters.get("name", self._name) == self._name


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.contracts", description=__doc__)
    parser.add_argument("kind", choices=SUITES, metavar="KIND", help=", ".join(SUITES))
    parser.add_argument("name", metavar="NAME", help="as in a config, as mypackage.models:unet")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option, as in a config")
    arguments = parser.parse_args()
    options: dict[str, Any] = {}
    try:
        for override in arguments.set:
            apply_override(options, override)
        # An optimizer's tests bring its learning rate.
        given = frozenset(options) | ({"learning_rate"} if arguments.kind == "optimizer" else set())
        check_options(arguments.kind, arguments.name, given)
    except (OverrideError, CatalogError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    subjects.choose(arguments.kind, ComponentSpec(arguments.name, options))
    suite = str(_HERE / SUITES[arguments.kind])
    return pytest.main([suite, "--durations=0", "-q", "-p", "no:cacheprovider"], [_OnlyTheContract(arguments.name)])


if __name__ == "__main__":
    sys.exit(main())
