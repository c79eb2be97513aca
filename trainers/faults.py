"""From what went wrong in a rank to its exit code: is it the specification's fault, the allocation's or the code's?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from storage.protocol.exit_codes import ExitCode
from storage.protocol.files import is_disk_full
from trainers.components import ComponentMissingError
from trainers.datasets import DatasetError


class SpecError(ValueError):
    """The specification asks for what cannot be trained."""


class AllocationError(RuntimeError):
    """The ranks, GPUs or data plane are not what the site promises. Another allocation may do."""


class SupersededError(RuntimeError):
    """A newer attempt of the trial exists: these ranks outlived the reported end of theirs, and must write no more."""


class BatchTooLargeError(MemoryError):
    """A batch that the batch policy may ask for, or a loader batch, does not fit into a rank's memory."""


class CheckpointError(ValueError):
    """A checkpoint belongs to another trial, or is not a checkpoint."""


class AgreedError(RuntimeError):
    """Something failed on at least one rank, and all ranks know."""

    def __init__(self, reason: str, exit_code: ExitCode) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


@contextmanager
def values_are_of_the_spec() -> Iterator[None]:
    """In the block, a value that is refused is one of the specification's.

    Raises:
        SpecError: In the place of any other ValueError but those for what may be damaged or away: a data set's, or a
            package's that is not there.
    """
    try:
        yield
    except (DatasetError, SpecError, ComponentMissingError):
        raise
    except ValueError as error:
        raise SpecError(str(error)) from error


def exit_code_of(error: BaseException) -> ExitCode:
    """What a rank that ends by this error tells its runner."""
    if isinstance(error, AgreedError):
        return error.exit_code
    if is_disk_full(error):
        return ExitCode.DISK_FULL
    # TensorFlow's, which is not imported here.
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return ExitCode.OUT_OF_MEMORY
    if isinstance(error, SpecError):
        return ExitCode.BAD_SPEC
    if isinstance(error, SupersededError):
        return ExitCode.SUPERSEDED
    if isinstance(error, CheckpointError):
        return ExitCode.BAD_CHECKPOINT
    # Data or code that were there when the study began are on a mount that is not here, or were damaged since.
    if isinstance(error, AllocationError | DatasetError | ComponentMissingError | OSError):
        return ExitCode.UNUSABLE_ALLOCATION
    return ExitCode.CRASHED
