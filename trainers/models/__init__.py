"""Networks. `build(input_shape, class_count, *, options...)` gives a Keras model from images to logits.

input_shape: (height, width, bands). The model takes float32 [batch, height, width, bands], standardised, and gives
float32 logits [batch, class_count], with no sigmoid: the loss wants logits.
"""
