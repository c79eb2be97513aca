"""`python -m trainers.export < REQUEST`: an ExportRequest as JSON on standard input. One process, no MPI, no GPU."""

from __future__ import annotations

import os
import signal
import sys

from storage.protocol.codec import from_json
from storage.protocol.exit_codes import ExitCode
from storage.protocol.exports import ExportRequest
from trainers.faults import CheckpointError, SpecError
from trainers.lean_imports import import_tensorflow


def main() -> int:
    # What is written aside is removed on the way out.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # The login node may have no GPU, and one that is taken would be missing to a trial.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import_tensorflow()
    from trainers.components import ComponentMissingError
    from trainers.datasets import DatasetError
    from trainers.export.folder import ExportError, export

    request = from_json(ExportRequest, sys.stdin.read())
    try:
        export(request)
    except (ExportError, SpecError, DatasetError, ComponentMissingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.BAD_SPEC
    return 0


if __name__ == "__main__":
    sys.exit(main())
