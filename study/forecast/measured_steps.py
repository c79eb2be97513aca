"""What timed updates say of epochs that nobody has trained yet. Pure."""

from __future__ import annotations

from storage.protocol.gpu_check import InputFacts, ProgramFacts
from study.forecast.measurements import MeasuredEpoch, MeasuredStart, Measurements
from study.forecast.performance_model import Placement


def measurements_of(
    program: ProgramFacts, input_rate: InputFacts | None, placement: Placement, train_samples: int, meeting_s: float
) -> Measurements:
    """Epochs of such updates, each with one evaluation and no checkpoint, and a start.

    Args:
        input_rate: A ceiling for what the ranks train on; None: the data are no limit.
        train_samples: Of an epoch, over all ranks.
        meeting_s: From the start of the ranks until they have met.
    """
    ceiling = float("inf") if input_rate is None else input_rate.samples_per_s
    epochs = []
    for phase in program.phases:
        size = phase.local_batch_size * placement.ranks
        trained = train_samples // placement.ranks // phase.local_batch_size * size
        for update_s in phase.update_s:
            rate = min(size / update_s, ceiling)
            epochs.append(MeasuredEpoch(placement, size, rate, trained / rate + program.evaluation_s))
    start_s = meeting_s + program.build_s + program.warm_up_s
    return Measurements(tuple(epochs), (MeasuredStart(placement, start_s),))
