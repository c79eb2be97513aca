"""Trains an epoch before the switch and one after it: by Algorithm 1 as the paper prints it, and by the product.

    algorithm_1.py OUT_DIR

Rank N of M writes OUT_DIR/N of M.npz. One rank alone does only what is to be compared with several.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from storage.protocol.records import ComponentSpec
from tests.trainers.tiny_trial import LARGE, SMALL, VAL, switch_at, tiny_spec
from trainers.checkpoint import Progress, TrainingState
from trainers.communicator import Communicator, configure_threads
from trainers.datasets import ArraySource, read_samples
from trainers.demand import Demand
from trainers.train import Training, build_training, evaluate, train_epoch, warm_up

EPOCHS = 2
SPLIT = 2
SPEC = tiny_spec(
    epochs=EPOCHS,
    batch_policy=switch_at(1),
    # One more than two ranks can share; 53 samples on each are six loader batches of eight and five more.
    dataset=ComponentSpec("synthetic_bigearthnet", {"train": 107, "val": VAL, "size": 8}),
)
WHOLE_LOADER_BATCHES = 96

Arrays = dict[str, np.ndarray]


def main() -> None:
    configure_threads(None, deterministic=True)
    communicator = Communicator()
    results = however_many_ranks(communicator)
    if communicator.world_size == SPEC.world_size:
        results |= printed(build_training(SPEC, communicator))
        training = build_training(SPEC, communicator)
        results |= ours(with_samples(training, WHOLE_LOADER_BATCHES)) | short_last_batch(training) | ended(training)
        results |= shapes(build_training(SPEC, communicator))
    np.savez(Path(sys.argv[1]) / f"{communicator.rank} of {communicator.world_size}.npz", **results)


def however_many_ranks(communicator: Communicator) -> Arrays:
    """Evaluate the initial weights, then train them in global batches that do not depend on the number of ranks."""
    spec = dataclasses.replace(
        SPEC,
        world_size=communicator.world_size,
        loader_batch_size=SPEC.loader_batch_size * SPEC.world_size // communicator.world_size,
        model=ComponentSpec("small_resnet", {"width": 4, "blocks": [1], "normalisation": "none"}),
    )
    training = with_samples(build_training(spec, communicator), WHOLE_LOADER_BATCHES)
    evaluation = evaluate(training)
    results = {
        "val_loss": np.array(evaluation.loss),
        "class_scores": np.array([evaluation.classes.samples, evaluation.classes.precision, evaluation.classes.recall]),
        "f1": np.array([evaluation.scores["f1_micro"], evaluation.scores["f1_macro"]]),
        "val_labels": training.val.labels,
        "val_logits": training.state.model(training.dataset.to_model_input(training.val.samples), training=False),
        **named("alike/before", training.state),
    }
    for epoch, batch_size in enumerate((SMALL, LARGE)):
        progress = Progress(history=[None] * epoch)
        train_epoch(training, progress, training.plan(batch_size), lambda: Demand.NONE)
    return results | named("alike/after", training.state)


def with_samples(training: Training, count: int) -> Training:
    source = training.train
    return dataclasses.replace(training, train=ArraySource(source.samples[:count], source.labels[:count]))


def printed(training: Training) -> Arrays:
    """Algorithm 1, on Horovod's own tape."""
    model, optimizer, dataset = training.state.model, training.state.optimizer, training.dataset
    weights = [variable.value for variable in model.trainable_variables]

    @tf.function
    def training_step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(dataset.to_model_input(images), training=True)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), logits)
            loss_value = tf.reduce_mean(losses)
        tape = hvd.DistributedGradientTape(tape)
        optimizer.apply(tape.gradient(loss_value, weights), model.trainable_variables)
        return loss_value

    def loader_batches(epoch):
        # Dealt to the ranks like cards.
        permutation = np.random.default_rng([SPEC.seed, epoch]).permutation(WHOLE_LOADER_BATCHES)
        own = permutation[hvd.rank() :: hvd.size()]
        for start in range(0, len(own), SPEC.loader_batch_size):
            yield read_samples(training.train, own[start : start + SPEC.loader_batch_size])

    states = {}
    for epoch in range(EPOCHS):
        for images, labels in loader_batches(epoch):
            if epoch < 1:
                images_split = np.array_split(images, SPLIT)
                labels_split = np.array_split(labels, SPLIT)
                for i in range(SPLIT):
                    training_step(images_split[i], labels_split[i])
            else:
                training_step(images, labels)
        states |= named(f"printed/{epoch}", training.state)
    return states


def ours(training: Training) -> Arrays:
    states = named("ours/before", training.state)
    warm_up(training)
    states |= named("ours/warm", training.state)
    for epoch, batch_size in enumerate((SMALL, LARGE)):
        progress = Progress(history=[None] * epoch)
        train_epoch(training, progress, training.plan(batch_size), lambda: Demand.NONE)
        states |= named(f"ours/{epoch}", training.state)
    training.communicator.average_variables([variable.value for variable in training.state.moving_statistics()])
    return states | named("ours/averaged", training.state)


def short_last_batch(training: Training) -> Arrays:
    source = WatchedSource(training.train.samples, training.train.labels)
    progress = Progress()
    longer = dataclasses.replace(training, train=source)
    asked_after: list[int] = []
    train_epoch(longer, progress, training.plan(SMALL), lambda: note(asked_after, progress, Demand.NONE))
    return {
        "short/asked_after": np.array(asked_after),
        "short/samples": np.array(progress.samples),
        "short/updates": np.array(progress.updates),
        "short/read": np.concatenate(source.read_indices),
    }


def shapes(training: Training) -> Arrays:
    """What each call was given: 0 or 1 for training or evaluation, rows, and samples per update."""
    called: dict[str, list[tuple[int, int, int]]] = {"warm": [], "epochs": []}
    seen = called["warm"]

    def train_step(samples, labels, local_batch_size, learning_rates):
        seen.append((0, len(samples), int(local_batch_size)))
        return training.train_step(samples, labels, local_batch_size, learning_rates)

    def evaluate_step(samples, labels, count):
        seen.append((1, len(samples), 0))
        return training.evaluate_step(samples, labels, count)

    watched = dataclasses.replace(training, train_step=train_step, evaluate_step=evaluate_step)
    warm_up(watched)
    seen = called["epochs"]
    for epoch, batch_size in enumerate((SMALL, LARGE)):
        train_epoch(watched, Progress(history=[None] * epoch), training.plan(batch_size), lambda: Demand.NONE)
        evaluate(watched)
    return {f"shapes/{when}": np.array(calls) for when, calls in called.items()}


def ended(training: Training) -> Arrays:
    """An epoch in which the ranks are asked for an end after the second loader batch."""
    progress = Progress()
    asked_after: list[int] = []
    train_epoch(
        training,
        progress,
        training.plan(SMALL),
        lambda: note(asked_after, progress, Demand.PAUSE if progress.loader_batches == 2 else Demand.NONE),
    )
    return {"ended/asked_after": np.array(asked_after), "ended/loader_batches": np.array(progress.loader_batches)}


def note(asked_after: list[int], progress: Progress, answer: Demand) -> Demand:
    asked_after.append(progress.loader_batches)
    return answer


@dataclasses.dataclass(frozen=True)
class WatchedSource(ArraySource):
    read_indices: list[np.ndarray] = dataclasses.field(default_factory=list)

    def read(self, indices, out):
        self.read_indices.append(indices)
        return super().read(indices, out)


def named(prefix: str, state: TrainingState) -> Arrays:
    kinds = {
        "weights": state.model.trainable_variables,
        "optimizer": state.optimizer.variables,
        "statistics": state.moving_statistics(),
    }
    return {
        f"{prefix}/{kind}/{i:03d}": np.array(variable)
        for kind, variables in kinds.items()
        for i, variable in enumerate(variables)
    }


if __name__ == "__main__":
    main()
