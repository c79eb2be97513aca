"""Exports trained trials: `python -m trainers.export < REQUEST` writes a folder that needs none of this project's code.

    OUT/model.keras    for keras.models.load_model: stored samples in, probabilities out
    OUT/saved_model    the same for tf.saved_model.load and TensorFlow Serving
    OUT/export.json    ExportRecord
    OUT/model_card.md  the same for people

The folder is written under another name and renamed, so it is whole or not there.
"""
