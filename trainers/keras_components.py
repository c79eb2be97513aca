"""Networks of keras.applications and optimizers of Keras, as components: `name = "keras.applications:ResNet50"`.

What the trainer decides is left out of their options; everything else is theirs, by Keras' own names and defaults.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

_SET_FOR_MODELS = frozenset(
    # input_tensor and pooling would change what goes in and what comes out.
    {"include_top", "weights", "input_tensor", "input_shape", "pooling", "classes", "classifier_activation", "name"}
    # Images are standardised already.
    | {"include_preprocessing"}
)
# training.accumulation_steps is the trainer's own way; a scaled loss and an averaged model are nobody's to undo here.
_NOT_FOR_OPTIMIZERS = frozenset(
    {"gradient_accumulation_steps", "loss_scale_factor", "name", "kwargs"}
    | {"use_ema", "ema_momentum", "ema_overwrite_frequency"}
)
_PREPROCESSING = (layers.Rescaling, layers.Normalization)


def adapted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a component of its kind; itself if it is not one of Keras'."""
    if kind == "models" and str(getattr(function, "__module__", "")).startswith("keras.src.applications."):
        return _with_signature(_application(function), function, ("input_shape", "class_count"), _SET_FOR_MODELS)
    if kind == "optimizers" and isinstance(function, type) and issubclass(function, keras.optimizers.Optimizer):
        return _with_signature(_optimizer(function), function, ("model",), _NOT_FOR_OPTIMIZERS)
    return function


def _with_signature(
    build: Callable[..., Any], original: Callable[..., Any], given: tuple[str, ...], without: frozenset[str]
) -> Callable[..., Any]:
    """`build` with the parameters `given` and, by keyword, those of the original but `without`."""
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in given]
    parameters += [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(original).parameters.items()
        if name not in without
    ]
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return build


def _application(function: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    def build(input_shape: tuple[int, int, int], class_count: int, **options: Any) -> keras.Model:
        if "include_preprocessing" in inspect.signature(function).parameters:
            options["include_preprocessing"] = False
        with warnings.catch_warnings():
            # That images usually have 1 or 3 bands.
            warnings.filterwarnings("ignore", "This model usually expects")
            network = function(
                include_top=True,
                weights=None,
                input_shape=input_shape,
                classes=class_count,
                classifier_activation=None,
                **options,
            )
        return _for_standardised_images(network)

    return build


def _for_standardised_images(network: keras.Model) -> keras.Model:
    """The network without layers that rescale its input, and with its last weights in float32, as logits are."""
    last = max(i for i, layer in enumerate(network.layers) if getattr(layer, "weights", None))
    head = network.layers[last:]

    def exchange(layer: Any) -> Any:
        if isinstance(layer, _PREPROCESSING):
            return layers.Identity(name=layer.name)
        if isinstance(layer, layers.Layer) and any(layer is each for each in head):
            return type(layer).from_config({**layer.get_config(), "dtype": "float32"})
        return layer

    return keras.models.clone_model(network, clone_function=exchange)


def _optimizer(optimizer: type[keras.optimizers.Optimizer]) -> Callable[..., keras.optimizers.Optimizer]:
    def build(model: keras.Model, **options: Any) -> keras.optimizers.Optimizer:
        if "learning_rate" in options:
            # A config may say 1 for 1.0, which Keras refuses.
            options["learning_rate"] = float(options["learning_rate"])
        built = optimizer(**options)
        # As those of the bundled optimizers: shrinking biases and normalisation regularises nothing.
        built.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
        return built

    return build
