"""Optimizers. `build(model, *, options...)` gives a Keras optimizer for the model's trainable variables."""
