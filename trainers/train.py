"""Train one trial: Algorithm 1 of the paper, between checkpoints.

The ranks run this function together, and every branch that holds a collective is taken by all of them or none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from storage.protocol.energy import sum_by_counter
from storage.protocol.records import (
    ClassScores,
    EpochMetrics,
    MovingStatistics,
    ObjectiveEpoch,
    Outcome,
    SplitScores,
    TrialResult,
    TrialSpec,
)
from storage.protocol.trial_dir import AttemptDir
from trainers import checkpoint, components
from trainers.batch_plan import BatchPlan, evaluation_batch_size, plan_batch, plan_parts
from trainers.batch_policies import BatchPolicy
from trainers.checkpoint import CheckpointOwner, Progress, TrainingState
from trainers.datasets import Dataset, DatasetError, SampleSource, Split
from trainers.demand import Demand, Demands
from trainers.faults import BatchTooLargeError, values_are_of_the_spec
from trainers.learning_rates import LearningRate, rates_of_updates
from trainers.loader import evaluation_order_of, read_batches, training_order_of
from trainers.metrics import best_epoch, score
from trainers.model_graph import (
    are_same_but_for_rates,
    batch_normalisations,
    exchange_layers,
    rates_of_dropout,
    set_rates_of_dropout,
)
from trainers.precision import set_precision
from trainers.step import (
    CalibrateStep,
    EvaluateStep,
    TrainStep,
    compile_calibrate_step,
    compile_evaluate_step,
    compile_train_step,
)
from trainers.tasks import Task, build_task

if TYPE_CHECKING:
    from trainers.communicator import Communicator
    from trainers.energy.meter import EnergyMeter

# Over all ranks: Wu and Johnson (2021) find a thousand to ten thousand samples enough.
_CALIBRATION_SAMPLES = 4096


@dataclass(frozen=True)
class Training:
    """One trial, built: what its specification names, and the compiled calls."""

    spec: TrialSpec
    communicator: Communicator
    policy: BatchPolicy
    learning_rate: LearningRate
    dataset: Dataset
    task: Task
    train: SampleSource
    val: SampleSource
    test: SampleSource | None
    """None where the specification does not ask for its scores."""
    state: TrainingState
    augmentation_seed: tf.Variable
    part_size: tf.Variable | None
    """Samples of a rank whose gradients are computed at once; None: those of a whole update."""
    train_step: TrainStep
    evaluate_step: EvaluateStep
    calibrate_step: CalibrateStep
    base_learning_rate: float = 0.0
    """The optimizer's as it was built; later it has that of its last update."""
    warm_batches: set[tuple[int, int]] = field(default_factory=set)
    """(loader batch size, global batch size) of what the compiled calls have run."""

    @property
    def global_batch_sizes(self) -> tuple[int, ...]:
        """Every size that the batch policy may ask these ranks for, ascending."""
        return tuple(map(self._scaled, self.policy.global_batch_sizes))

    def global_batch_size(self, epoch: int, history: Sequence[EpochMetrics]) -> int:
        return self._scaled(self.policy.global_batch_size(epoch, history))

    def plan(self, global_batch_size: int) -> BatchPlan:
        return plan_batch(global_batch_size, self.communicator.world_size, self.spec.loader_batch_size)

    def _scaled(self, global_batch_size: int) -> int:
        return self.spec.scaled_batch(global_batch_size, self.communicator.world_size)


def build_training(spec: TrialSpec, communicator: Communicator, before: Training | None = None) -> Training:
    """Build what the specification names. All ranks come out with the same weights.

    Args:
        before: The trial that these ranks had before. What it has compiled is used again where that is the same; it
            cannot be trained any more then.

    Raises:
        AgreedError: The model or the optimizer cannot be built like this.
        DatasetError: The data cannot be opened; on the rank that found out.
    """
    with values_are_of_the_spec():
        policy = components.build("batch_policies", spec.batch_policy)
        learning_rate = components.build("learning_rates", spec.learning_rate, spec.epochs)
    if before is not None and not _is_same_data(spec, before.spec):
        before = None
    training = None if before is None else _reuse(before, spec, policy, learning_rate, communicator)
    if training is None:
        training = _build_anew(spec, policy, learning_rate, communicator, before)
    communicator.heartbeat()
    training.augmentation_seed.assign([spec.seed, communicator.rank])
    if training.part_size is not None:
        local_batch_sizes = [training.plan(size).local_batch_size for size in training.global_batch_sizes]
        training.part_size.assign(plan_parts(local_batch_sizes, spec.accumulation_steps))
    communicator.broadcast_variables([v.value for v in [*training.state.shared(), *training.state.moving_statistics()]])
    training.state.fold_rank_into_seeds(communicator.rank)
    return replace(training, base_learning_rate=float(training.state.optimizer.learning_rate))


def _build_anew(
    spec: TrialSpec,
    policy: BatchPolicy,
    learning_rate: LearningRate,
    communicator: Communicator,
    before: Training | None,
) -> Training:
    """Args: before: A trial with the same data."""
    if before is not None:
        dataset, train, val, test = before.dataset, before.train, before.val, before.test
    else:
        with communicator.rank_zero_first(), values_are_of_the_spec():
            dataset = components.build("datasets", spec.dataset, Path(spec.cache_dir))
            train, val = dataset.open(Split.TRAIN), dataset.open(Split.VAL)
            test = dataset.open(Split.TEST) if spec.test_split else None
    with values_are_of_the_spec():
        task = build_task(spec, len(dataset.class_names))
    state = communicator.run_on_all_ranks(lambda: _build_first_state(spec, dataset))
    seed = tf.Variable([0, 0], trainable=False, dtype=tf.int64)
    part_size = tf.Variable(0, trainable=False, dtype=tf.int32) if spec.accumulation_steps > 1 else None
    return Training(
        spec=spec,
        communicator=communicator,
        policy=policy,
        learning_rate=learning_rate,
        dataset=dataset,
        task=task,
        train=train,
        val=val,
        test=test,
        state=state,
        augmentation_seed=seed,
        part_size=part_size,
        train_step=compile_train_step(
            state.model, state.optimizer, dataset, task, communicator, seed, part_size, jit=spec.jit
        ),
        evaluate_step=compile_evaluate_step(state.model, dataset, task),
        calibrate_step=compile_calibrate_step(state.model, dataset),
    )


def _reuse(
    before: Training, spec: TrialSpec, policy: BatchPolicy, learning_rate: LearningRate, communicator: Communicator
) -> Training | None:
    """The trial in what `before` has compiled, with the values that it begins with; None where it takes another trace.

    Rank 0 alone builds its model: the others get the weights from there, as they do in any case.
    """

    def build_start() -> _Start | None:
        if not communicator.is_first or not _may_share_trace(spec, before):
            return None
        state = _build_first_state(spec, before.dataset)
        if not _has_same_trace(spec, state, before):
            return None
        before.state.assign(state.copy())
        return _Start([np.asarray(v) for v in state.random_states()], rates_of_dropout(state.model))

    start = communicator.broadcast(communicator.run_on_all_ranks(build_start))
    if start is None:
        return None
    for variable, value in zip(before.state.random_states(), start.random_states, strict=True):
        variable.assign(value)
    set_rates_of_dropout(before.state.model, start.rates_of_dropout)
    if isinstance(before.state.optimizer, AdoptingOptimizer):
        with values_are_of_the_spec():
            before.state.optimizer.adopt(components.build("optimizers", spec.optimizer, before.state.model))
    return replace(before, spec=spec, policy=policy, learning_rate=learning_rate)


@dataclass(frozen=True)
class _Start:
    """What a trial begins with beyond what is broadcast as variables."""

    random_states: list[NDArray[np.integer]]
    rates_of_dropout: list[float]


def _build_first_state(spec: TrialSpec, dataset: Dataset) -> TrainingState:
    """As `build_state`, the same after other trials in this process."""
    # Frees the models of the trials before, and has this one's variables called as if there had been none.
    keras.utils.clear_session()
    keras.utils.set_random_seed(spec.seed)
    return build_state(spec, dataset)


def _is_same_data(spec: TrialSpec, before: TrialSpec) -> bool:
    return (spec.dataset, spec.cache_dir, spec.test_split) == (before.dataset, before.cache_dir, before.test_split)


def _may_share_trace(spec: TrialSpec, before: Training) -> bool:
    """Whether it is worth while to build the model and see."""
    return (
        spec.model.name == before.spec.model.name
        and spec.optimizer.name == before.spec.optimizer.name
        and spec.task == before.spec.task
        and (spec.precision, spec.jit) == (before.spec.precision, before.spec.jit)
        and (spec.accumulation_steps > 1) == (before.part_size is not None)
    )


def _has_same_trace(spec: TrialSpec, state: TrainingState, before: Training) -> bool:
    """Whether the calls compiled for `before` do what the specification says once the variables are its own."""
    if spec.model != before.spec.model and not are_same_but_for_rates(state.model, before.state.model):
        return False
    optimizer, optimizer_before = state.optimizer, before.state.optimizer
    if isinstance(optimizer, AdoptingOptimizer) and isinstance(optimizer_before, AdoptingOptimizer):
        return optimizer.traced_options == optimizer_before.traced_options
    return spec.optimizer == before.spec.optimizer


def build_state(spec: TrialSpec, dataset: Dataset) -> TrainingState:
    """The model and the optimizer that the specification names, with the weights that its seed gives.

    Raises:
        SpecError: They cannot be built like this.
    """
    set_precision(spec.precision)
    with values_are_of_the_spec():
        model = components.build("models", spec.model, dataset.input_shape, len(dataset.class_names))
        model = exchange_layers(model)
        optimizer = components.build("optimizers", spec.optimizer, model)
        optimizer.build(model.trainable_variables)
    return TrainingState(model, optimizer)


@runtime_checkable
class AdoptingOptimizer(Protocol):
    """An optimizer whose hyperparameters are variables, from when it is made."""

    @property
    def traced_options(self) -> Hashable:
        """What is not: optimizers with other ones need another trace."""
        ...

    def adopt(self, other: Any) -> None:
        """Take over all values that checkpoints do not hold of another one, which need not be built."""
        ...


def train(
    training: Training,
    attempt: AttemptDir,
    owner: CheckpointOwner,
    is_interrupted: Callable[[], bool],
    report: Callable[[EpochMetrics], None],
    meter: EnergyMeter,
) -> TrialResult:
    """Train from the checkpoint, or from the beginning, to an end.

    Args:
        owner: The trial, as its checkpoints name it.
        is_interrupted: Whether this rank has been asked to make room; all ranks then save and pause.
        report: Called on rank 0 with each finished epoch.
        meter: Counts the energy of each epoch.

    Raises:
        AgreedError: The checkpoint cannot be used.
        BatchTooLargeError: A batch does not fit into this rank's memory; found out before epoch 0, not at the switch.
        SupersededError: A newer attempt has begun; on all ranks.
    """
    spec, communicator = training.spec, training.communicator
    demands = Demands(attempt, communicator, is_interrupted)
    warm_up(training)
    progress, best = checkpoint.load(attempt, owner, training.state, communicator) or (Progress(), None)
    evaluation: Evaluation | None = None

    def save() -> None:
        checkpoint.save(attempt, owner, training.state, progress, communicator, best)

    def ends(outcome: Outcome, reason: str = "") -> TrialResult:
        epochs, batches = tuple(progress.history), progress.loader_batches
        return TrialResult(outcome, progress.epoch, reason, epochs, batches, owner.spec_sha256)

    while not _is_over(spec, progress.history):
        started = time.perf_counter()
        meter.begin()
        epoch, history = progress.epoch, progress.history
        if not _has_its_ranks(training, epoch):
            return ends(Outcome.HELD, f"epoch {epoch} takes {spec.world_size_at(epoch)} ranks")
        global_batch_size = training.global_batch_size(epoch, history)

        plan = training.plan(global_batch_size)
        set_momentum_power(training, global_batch_size)
        train_epoch(training, progress, plan, demands.agree)
        if progress.loader_batches < plan.loader_batches(samples_per_rank(training)):
            progress.energy_by_counter_j = energy_so_far(progress, meter)
            progress.wall_s += time.perf_counter() - started
            save()
            return ends(Outcome.PAUSED, "interrupted inside an epoch; the checkpoint holds the place")

        if spec.moving_statistics is MovingStatistics.RECALIBRATED:
            recalibrate(training, epoch)
        communicator.average_variables([v.value for v in training.state.moving_statistics()])
        evaluation = evaluate(training)
        loss_sum, samples = communicator.sum(np.array([progress.loss_sum, progress.samples], np.float64))
        metrics = EpochMetrics(
            epoch=epoch,
            train_loss=loss_sum / samples,
            val_loss=evaluation.loss,
            f1_micro=evaluation.scores["f1_micro"],
            f1_macro=evaluation.scores["f1_macro"],
            scores=evaluation.scores,
            global_batch_size=global_batch_size,
            learning_rate=float(training.state.optimizer.learning_rate),
            updates=progress.updates,
            samples=int(samples),
            samples_per_s=samples / progress.train_s,
            first_batch_s=progress.first_batch_s,
            energy_by_counter_j=energy_so_far(progress, meter),
            wall_s=progress.wall_s + time.perf_counter() - started,
        )
        if communicator.is_first:
            report(metrics)
        progress = Progress(history=[*history, metrics])
        if communicator.is_first and epoch_that_counts(spec, progress.history) == epoch:
            best = training.state.copy_network() if spec.objective_epoch is ObjectiveEpoch.BEST else None

        # The validation loss too: the last update of the last epoch shows in no training loss.
        if not math.isfinite(metrics.train_loss + metrics.val_loss):
            return ends(Outcome.DIVERGED, f"the loss of epoch {epoch} is not finite")
        verdict = demands.agree_after_epoch()
        is_over = _is_over(spec, progress.history)
        is_due = progress.epoch % spec.checkpoint_every_epochs == 0
        if verdict or is_due or is_over or not _has_its_ranks(training, progress.epoch):
            save()
        if verdict and not is_over:
            return ends(verdict, "asked to stop at an epoch's end")

    counted_epoch = epoch_that_counts(spec, progress.history)
    if evaluation is None or counted_epoch != progress.history[-1].epoch:
        # This attempt did not evaluate that network, or other ones after it.
        if best is not None:
            training.state.assign_network(best)
        communicator.broadcast_variables([v.value for v in training.state.network()])
        evaluation = evaluate(training)
    reason = "" if progress.epoch == spec.epochs else f"no better score in {spec.patience} epochs"
    return replace(
        ends(Outcome.COMPLETED, reason),
        counted_epoch=counted_epoch,
        classes=evaluation.classes,
        test=None if training.test is None else _score_test(training, training.test, evaluation.classes.thresholds),
    )


def _score_test(training: Training, test: SampleSource, thresholds: Sequence[float]) -> SplitScores:
    evaluation = evaluate(training, test, thresholds)
    return SplitScores(len(test), evaluation.loss, evaluation.scores, evaluation.classes)


def energy_so_far(progress: Progress, meter: EnergyMeter) -> dict[str, float]:
    """Joules of the epoch under way, in earlier attempts and in this one. A collective."""
    now = meter.since_begun()
    return sum_by_counter([progress.energy_by_counter_j, now]) if progress.wall_s else now


def _is_over(spec: TrialSpec, history: Sequence[EpochMetrics]) -> bool:
    """Whether all epochs are done, or as many as its patience in a row without a better score."""
    if len(history) >= spec.epochs:
        return True
    if spec.patience is None or not history:
        return False
    return history[-1].epoch - best_epoch(history, spec.objective) >= spec.patience


def _has_its_ranks(training: Training, epoch: int) -> bool:
    """Whether these ranks are as many as an epoch takes."""
    return training.spec.world_size_at(epoch) == training.communicator.world_size


def epoch_that_counts(spec: TrialSpec, history: Sequence[EpochMetrics]) -> int:
    """The epoch whose score is the trial's value, of those that are done."""
    return best_epoch(history, spec.objective) if spec.objective_epoch is ObjectiveEpoch.BEST else history[-1].epoch


def train_epoch(training: Training, progress: Progress, plan: BatchPlan, agree: Callable[[], Demand]) -> None:
    """Train from where `progress` stands to the end of its epoch, or to a demand for an end.

    In the small phase the loader batch is cut into micro-batches with one update each; in the large phase it makes
    one update. Both are the same compiled call. The samples that do not fill an update sit the epoch out; they are the
    last ones of its order, hence others each time.

    Args:
        agree: What all ranks are asked for; a collective, called after each loader batch but the last.
    """
    spec, communicator = training.spec, training.communicator
    order = training_order_of(training.train, spec.seed, progress.epoch, communicator.rank, communicator.world_size)
    updates_of_epoch = plan.updates(len(order))
    used = updates_of_epoch * plan.local_batch_size
    last = plan.loader_batches(len(order))
    order = order[progress.loader_batches * spec.loader_batch_size : used]
    train_s_before, started = progress.train_s, time.perf_counter()
    losses: list[tf.Tensor] = []

    for samples, labels, count in read_batches(training.train, order, spec.loader_batch_size):
        updates = plan.updates(count)
        rates = rates_of_updates(
            training.learning_rate,
            training.base_learning_rate,
            progress.epoch,
            progress.updates,
            updates,
            updates_of_epoch,
        )
        losses.append(training.train_step(samples, labels, tf.constant(plan.local_batch_size), tf.constant(rates)))
        progress.loader_batches += 1
        progress.updates += updates
        progress.samples += count
        if progress.loader_batches == 1:
            losses[0].numpy()  # Waits for the device, which the other batches need not.
            progress.first_batch_s = time.perf_counter() - started
        if progress.loader_batches < last and agree() is not Demand.NONE:
            break

    # One after the other, so that an interruption in between leaves the same sum.
    for loss in losses:
        progress.loss_sum += float(loss)
    progress.train_s = train_s_before + time.perf_counter() - started


def set_momentum_power(training: Training, global_batch_size: int) -> None:
    """Give batch normalisation the momentum of an epoch."""
    is_scaled = training.spec.moving_statistics is MovingStatistics.SCALED
    power = global_batch_size / training.policy.global_batch_sizes[0] if is_scaled else 1.0
    for layer in batch_normalisations(training.state.model):
        layer.current_momentum.assign(layer.momentum**power)


def recalibrate(training: Training, epoch: int) -> None:
    """Have the moving statistics be the means over training samples of this rank, as the weights are now.

    Source: Wu and Johnson 2021, arXiv:2105.07576, section 3 ("PreciseBN").
    """
    communicator, model = training.communicator, training.state.model
    order = training_order_of(training.train, training.spec.seed, epoch, communicator.rank, communicator.world_size)
    batch_size = min(training.spec.loader_batch_size, len(order))
    batches = min(len(order), math.ceil(_CALIBRATION_SAMPLES / communicator.world_size)) // batch_size or 1
    random_states = [np.asarray(v) for v in training.state.random_states()]
    for done, (samples, _, _) in enumerate(read_batches(training.train, order[: batches * batch_size], batch_size)):
        for layer in batch_normalisations(model):
            # The mean of all batches up to this one.
            layer.current_momentum.assign(done / (done + 1))
        training.calibrate_step(samples)
        communicator.heartbeat()
    for variable, value in zip(training.state.random_states(), random_states, strict=True):
        variable.assign(value)


@dataclass(frozen=True)
class Evaluation:
    """Of a whole split, by all ranks together."""

    loss: float
    scores: dict[str, float]
    """By the names of SCORES."""
    classes: ClassScores


def evaluate(
    training: Training, source: SampleSource | None = None, thresholds: Sequence[float] | None = None
) -> Evaluation:
    """Evaluate a split, every sample once; the same on all ranks.

    Args:
        source: None: the validation split.
        thresholds: One per class, chosen elsewhere; None: those that the task chooses here.

    The probabilities of all samples meet on rank 0: an average precision cannot be put together from those of shards.

    Raises:
        AgreedError: A sample bears no label or several, and the task is for one.
    """
    source = training.val if source is None else source
    communicator, order = training.communicator, evaluation_order(training, source)
    loss_sum = np.zeros(1, np.float64)
    class_count = len(training.dataset.class_names)
    labels_seen, probabilities_seen = [np.empty((0, class_count), bool)], [np.empty((0, class_count), np.float32)]
    batch_size = evaluation_batch_size(len(order), training.spec.loader_batch_size)
    for samples, labels, count in read_batches(source, order, batch_size):
        loss, probabilities = training.evaluate_step(samples, labels, tf.constant(count))
        loss_sum += loss.numpy()
        labels_seen.append(labels.numpy()[:count] > 0)
        probabilities_seen.append(probabilities.numpy()[:count])
        communicator.heartbeat()
    loss = float(communicator.sum(loss_sum)[0]) / len(source)
    of_ranks = communicator.gather((np.concatenate(labels_seen), np.concatenate(probabilities_seen)))

    def score_all() -> tuple[dict[str, float], ClassScores] | None:
        if of_ranks is None:
            return None
        labels, probabilities = (np.concatenate(parts) for parts in zip(*of_ranks, strict=True))
        if training.task.is_single_label and (labels.sum(axis=1) != 1).any():
            raise DatasetError(
                f"{training.spec.dataset.name}: a sample to evaluate bears no label or several (up to "
                f"{labels.sum(axis=1).max()}), and the task {training.spec.task.name} is for one; take multi_label."
            )
        chosen = training.task.thresholds(labels, probabilities) if thresholds is None else thresholds
        return score(labels, probabilities, chosen, training.dataset.class_names)

    scored = communicator.broadcast(communicator.run_on_all_ranks(score_all))
    return Evaluation(loss, *scored)


def warm_up(training: Training) -> None:
    """Run every shape that a call of an epoch may have once and undo it, so that neither epoch 0 nor the switch pays
    for compilation, and a batch that does not fit is known before epoch 0.

    Raises:
        BatchTooLargeError: A batch does not fit into this rank's memory.
    """
    loader_batch_size, tried = training.spec.loader_batch_size, ""
    cold = [s for s in training.global_batch_sizes if (loader_batch_size, s) not in training.warm_batches]
    if not cold:
        return
    before = training.state.copy()
    try:
        for size in cold:
            tried = f"global_batch_size={size}"
            # Two updates where there are several: the loop is warm then, and the longest phase costs no more.
            plan = training.plan(size)
            rates = tf.fill([min(plan.split, 2)], training.base_learning_rate)
            batch = _zeros(training, plan.loader_batch_size)
            training.train_step(*batch, tf.constant(plan.local_batch_size), rates).numpy()
            training.communicator.heartbeat()
        tried = f"loader_batch_size={loader_batch_size}"
        batch_size = evaluation_batch_size(len(evaluation_order(training, training.val)), loader_batch_size)
        training.evaluate_step(*_zeros(training, batch_size), tf.constant(batch_size))
        if training.spec.moving_statistics is MovingStatistics.RECALIBRATED:
            training.calibrate_step(_zeros(training, min(loader_batch_size, samples_per_rank(training)))[0])
    except tf.errors.ResourceExhaustedError as error:
        raise BatchTooLargeError(
            f"{tried} does not fit into the memory of rank {training.communicator.rank}; use {_advice(training)}a "
            f"smaller batch or more ranks ({_words_of(error)})."
        ) from error
    training.state.assign(before)
    training.warm_batches.update((loader_batch_size, size) for size in cold)


def _advice(training: Training) -> str:
    """The accumulation steps with which the largest batch fits into this rank's memory, by trying; or nothing."""
    largest = max(training.plan(size).local_batch_size for size in training.global_batch_sizes)
    for steps in range(training.spec.accumulation_steps + 1, largest + 1):
        if largest % steps == 0 and _fits(training, largest // steps):
            return f"training.accumulation_steps={steps}, "
    return ""


def _fits(training: Training, samples: int) -> bool:
    """Whether a gradient of so many samples does. The other ranks take no part: they wait for this one, which fails."""
    model = training.state.model
    try:
        images = training.dataset.to_model_input(_zeros(training, samples)[0])
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(images, training=True))
        tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    except tf.errors.ResourceExhaustedError:
        return False
    return True


def samples_per_rank(training: Training) -> int:
    """That each rank has in an epoch's order."""
    return len(training.train) // training.communicator.world_size


def evaluation_order(training: Training, source: SampleSource) -> NDArray[np.int64]:
    """What this rank evaluates of a split."""
    return evaluation_order_of(source, training.communicator.rank, training.communicator.world_size)


def _words_of(error: tf.errors.ResourceExhaustedError) -> str:
    """The line that names the tensor; TensorFlow may put a trace of the graph around it."""
    lines = error.message.splitlines()
    return next((line for line in lines if "OOM" in line), lines[0]).rpartition("}} ")[2]


def _zeros(training: Training, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    dataset = training.dataset
    samples = tf.zeros([size, *dataset.sample_shape], dataset.sample_dtype)
    return samples, tf.zeros([size, len(dataset.class_names)], tf.uint8)
