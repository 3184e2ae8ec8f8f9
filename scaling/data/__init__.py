"""Data sets, on the host and on devices, without TensorFlow.

`sources` reads small sets into memory, `resident` serves them from the device, `streaming` reads
ImageNet in batches, `prepare` writes TFDS directories.
"""
