"""Looks whether all that training and evaluation compute has a kernel for GPUs: `make audit`.

Needs a TensorFlow that is built for GPUs, and no GPU. Exit code 0: all have one, and only what is expected is in the
host's memory; 1: something is not so; 2: this cannot be found out here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rich.console import Console

from storage.protocol.exit_codes import ExitCode
from storage.protocol.files import write_atomically
from storage.protocol.records import ComponentSpec
from trainers.components import ComponentMissingError
from trainers.faults import SpecError
from trainers.lean_imports import import_tensorflow

_FOUND = 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m trainers.audit", description=__doc__)
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="instead of all that are bundled; may be repeated. A file's name or an import path, as in a config",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found there, too")
    arguments = parser.parse_args()
    try:
        return _audit(arguments.model or [], arguments.json)
    except (AuditError, SpecError, ComponentMissingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.BAD_SPEC


class AuditError(RuntimeError):
    """Nothing can be found out here. The message says what to do."""


def _audit(models: list[str], json_file: Path | None) -> int:
    if json_file is not None and not json_file.parent.is_dir():
        raise AuditError(f"--json: {json_file.parent} is not a folder; make it, or name a file elsewhere.")
    if json_file is not None and json_file.is_dir():
        raise AuditError(f"--json: {json_file} is a folder; name a file in it.")
    # TensorFlow takes it for an error that there is no GPU.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Graphs are traced and not run: what the machine has makes no difference.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import_tensorflow()
    import tensorflow as tf

    from trainers.audit.kernels import has_gpu_kernels
    from trainers.audit.steps import MODELS, trace_all
    from trainers.audit.table import operations_table, steps_table, waits_table
    from trainers.audit.verdict import audit

    if not has_gpu_kernels():
        raise AuditError(
            f"this TensorFlow {tf.__version__} ({Path(tf.__file__).parent}) has no kernels for GPUs; `make audit` sets "
            "up one that has, and needs no GPU."
        )
    found = audit(trace_all([ComponentSpec(name) for name in models] or MODELS))
    console = Console()
    console.print(operations_table(found), waits_table(found), steps_table(found))
    if json_file is not None:
        written = {"tensorflow": tf.__version__, **found.to_json()}
        write_atomically(json_file, json.dumps(written, indent=1).encode() + b"\n")
    for line in found.findings:
        print(line, file=sys.stderr)
    if found.findings:
        return _FOUND
    console.print("Every operation has a kernel, and nothing unexpected is in the host's memory.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
