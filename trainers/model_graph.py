"""Models as graphs of layers: layers exchanged for ones that train faster, and two models compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import keras
from keras import layers

# The class of every keras.Model(inputs, outputs), which Keras keeps to itself.
from keras.src.models.functional import Functional

from trainers.batch_normalisation import FusedBatchNormalization
from trainers.dropout import VariableDropout, with_variable_rate
from trainers.pooling import MaxPooling2D, MeanPooling2D

Layer = TypeVar("Layer", bound=layers.Layer)

_GRAPHS = (keras.Sequential, Functional)
# Layers of Keras, and of the same configuration those that compute the same with less for a GPU to wait for.
_EXCHANGED: dict[type[layers.Layer], type[layers.Layer]] = {
    layers.BatchNormalization: FusedBatchNormalization,
    layers.GlobalAveragePooling2D: MeanPooling2D,
    layers.GlobalMaxPooling2D: MaxPooling2D,
}
_RESTORED = {own: of_keras for of_keras, own in _EXCHANGED.items()}
_OWN_MODULES = {own.__module__ for own in (VariableDropout, *_RESTORED)}


def exchange_layers(model: keras.Model) -> keras.Model:
    """The same model, with names, order and values of all variables, in which one kernel does each normalisation, the
    rates of dropout are variables, and no gradient of pooling has the host wait for a shape.

    A model that is not a graph of layers (a subclass of keras.Model with a `call` of its own) stays as it is, and so do
    the layers of other kinds, which both models share: use the new one only.
    """
    if type(model) not in _GRAPHS:
        return model
    exchanged = keras.models.clone_model(model, clone_function=_exchange, recursive=True)
    exchanged.set_weights(model.get_weights())
    return exchanged


def _exchange(layer: Any) -> Any:
    # Of this very class: a subclass may compute something else.
    if type(layer) is layers.Dropout:
        return with_variable_rate(layer)
    return _in_other_class(layer, _EXCHANGED)


def restore_layers(model: keras.Model) -> keras.Model:
    """The same model in Keras' own layers, with the values of all variables: the inverse of `exchange_layers`.

    Raises:
        TypeError: The model is not a graph of layers, so only its own code can load it.
    """
    if type(model) not in _GRAPHS:
        raise TypeError(
            f"{type(model).__name__} is a class of its own and not a graph of layers; build it with "
            "keras.Model(inputs, outputs)"
        )
    restored = keras.models.clone_model(model, clone_function=_restore, recursive=True)
    restored.set_weights(model.get_weights())
    return restored


def _restore(layer: Any) -> Any:
    if type(layer) is VariableDropout:
        return layers.Dropout.from_config({**layer.get_config(), "rate": float(layer.current_rate)})
    return _in_other_class(layer, _RESTORED)


def _in_other_class(layer: Any, classes: Mapping[type[layers.Layer], type[layers.Layer]]) -> Any:
    other = classes.get(type(layer))
    return layer if other is None else other.from_config(layer.get_config())


def are_same_but_for_rates(model: keras.Model, other: keras.Model) -> bool:
    """Whether the models compute the same of the same variables, once they have the same rates of dropout.

    False where that cannot be told: what is not Keras' own may hold more than its configuration says.
    """
    if type(model) not in _GRAPHS or type(other) not in _GRAPHS:
        return False
    config, other_config = model.get_config(), other.get_config()
    return _is_of_keras(config) and _without_rates(config) == _without_rates(other_config)


def rates_of_dropout(model: keras.Model) -> list[float]:
    """The rates that are variables, in the order of the layers."""
    return [float(layer.current_rate) for layer in _layers_of(model, VariableDropout)]


def set_rates_of_dropout(model: keras.Model, rates: Sequence[float]) -> None:
    """Give the model those of one that is the same but for them."""
    for layer, rate in zip(_layers_of(model, VariableDropout), rates, strict=True):
        layer.current_rate.assign(rate)


def batch_normalisations(model: keras.Model) -> list[FusedBatchNormalization]:
    """The layers whose momentum is a variable, in the order of the layers."""
    return list(_layers_of(model, FusedBatchNormalization))


def _layers_of(model: keras.Model, kind: type[Layer]) -> Iterator[Layer]:
    for layer in model.layers:
        if isinstance(layer, kind):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from _layers_of(layer, kind)


def _is_of_keras(config: Any) -> bool:
    """Whether all objects that a serialised configuration names are Keras' or ours; no function is."""
    if isinstance(config, list | tuple):
        return all(map(_is_of_keras, config))
    if not isinstance(config, dict):
        return not callable(config)
    name, module = config.get("class_name"), config.get("module")
    # Values of Python, as tuples and slices, have no module.
    is_value = name is None or (module is None and name.startswith("__"))
    is_known = is_value or module in _OWN_MODULES or str(module).partition(".")[0] == "keras"
    return is_known and name not in ("Lambda", "__lambda__") and all(map(_is_of_keras, config.values()))


def _without_rates(config: Any) -> Any:
    if isinstance(config, list | tuple):
        return [_without_rates(item) for item in config]
    if not isinstance(config, dict):
        return config
    is_dropout = config.get("class_name") == VariableDropout.__name__
    return {
        name: {**_without_rates(value), "rate": None} if is_dropout and name == "config" else _without_rates(value)
        for name, value in config.items()
    }
