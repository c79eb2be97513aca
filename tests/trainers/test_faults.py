"""Whose fault an error is: the specification's, the allocation's or the code's."""

from __future__ import annotations

import errno

import pytest
import tensorflow as tf

from storage.protocol.exit_codes import ExitCode
from storage.protocol.trial_dir import TrialDirError
from trainers.batch_plan import BatchPlanError
from trainers.components import ComponentError
from trainers.data_plane import DataPlaneError
from trainers.datasets import DatasetError
from trainers.faults import (
    AgreedError,
    AllocationError,
    BatchTooLargeError,
    CheckpointError,
    SpecError,
    SupersededError,
    exit_code_of,
    values_are_of_the_spec,
)


def caused_by(cause: Exception, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (SpecError("loader_batch_size=0"), ExitCode.BAD_SPEC),
        (AllocationError("3 ranks but 2 have met"), ExitCode.UNUSABLE_ALLOCATION),
        (DataPlaneError("no GPU"), ExitCode.UNUSABLE_ALLOCATION),
        (DatasetError("labels.csv cannot be read"), ExitCode.UNUSABLE_ALLOCATION),
        (TrialDirError("holds no spec.json"), ExitCode.UNUSABLE_ALLOCATION),
        (FileNotFoundError(errno.ENOENT, "No such file"), ExitCode.UNUSABLE_ALLOCATION),
        (OSError(errno.ESTALE, "Stale file handle"), ExitCode.UNUSABLE_ALLOCATION),
        (SupersededError("a newer attempt"), ExitCode.SUPERSEDED),
        (FULL_DISK, ExitCode.DISK_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ExitCode.DISK_FULL),
        (caused_by(FULL_DISK, DatasetError("cannot be kept in cache")), ExitCode.DISK_FULL),
        (CheckpointError("of another trial"), ExitCode.BAD_CHECKPOINT),
        (MemoryError(), ExitCode.OUT_OF_MEMORY),
        (BatchTooLargeError("global_batch_size=8192"), ExitCode.OUT_OF_MEMORY),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), ExitCode.OUT_OF_MEMORY),
        (ValueError("of the code"), ExitCode.CRASHED),
        (RuntimeError("of the code"), ExitCode.CRASHED),
        (KeyError("of the code"), ExitCode.CRASHED),
    ],
    ids=repr,
)
def test_an_error_ends_a_rank_with_the_exit_code_of_its_fault(error, exit_code):
    assert exit_code_of(error) is exit_code


@pytest.mark.parametrize("exit_code", ExitCode)
def test_what_all_ranks_agree_on_ends_them_with_the_exit_code_of_the_one_that_failed(exit_code):
    assert exit_code_of(AgreedError("rank 1 failed", exit_code)) is exit_code


@pytest.mark.parametrize("refused", [ValueError("momentum"), ComponentError("no option"), BatchPlanError("use 8")])
def test_a_value_that_is_refused_where_the_specification_is_built_is_the_specifications_fault(refused):
    with pytest.raises(SpecError, match=f"^{refused}$"), values_are_of_the_spec():
        raise refused


@pytest.mark.parametrize("fault", [DatasetError("lacks a.png"), FULL_DISK, MemoryError("no room"), KeyError("name")])
def test_any_other_fault_stays_what_it_is(fault):
    with pytest.raises(type(fault)) as raised, values_are_of_the_spec():
        raise fault

    assert raised.value is fault
