"""Data sets: where they come from, and how their examples reach a device.

`sources` reads small sets whole, `streaming` reads ImageNet a batch at a time, `prepare` writes
TFDS directories without TensorFlow. Nothing here imports TensorFlow.
"""
