#!/usr/bin/env bash
# What one GPU does with this code, in one run of at most ten minutes. Run it where a GPU is first to
# be had:
#
#     bash benchmarks/gpu.sh --data_dir=DIR [--out=benchmarks/results/gpu] [--seconds=560]
#
# In this order, each number written to OUT/PART.json as soon as it is there, with the device's name:
#
#     resnet50        ResNet-50, bfloat16, batch 256: training steps beside PyTorch's, compiled,
#                     channels_last; images per second, share of the dense peak
#     populations     trial-steps per second of the digits and Fashion-MNIST MLPs and the Simple CNN
#     memory          bytes of an update at per-device batches 8 to 512, by the compiler
#     steps_resnet50  seconds of an update and the bytes that the device saw, at the same batches
#     steps_cnn       the same of the Simple CNN
#     panel_b         configs/shallue.py:fashion_mnist_cnn, at as many batch sizes and with as many
#                     trials as the time that is left allows; records in OUT/panel_b.tgz
#
# A part that fails or reaches its limit does not stop the next; OUT/summary.json has all of them.
# The study itself is in runs/gpu/panel_b; the same command with --parts=panel_b resumes it. To see that every part
# works, at sizes that mean nothing, on a CPU: add --toy --seconds=1500.
#
# What it needs, on a fresh machine: Linux, Python 3.11 or newer, CUDA 13, jax[cuda13] 0.11 (0.10 to
# 0.13), torch 2.11 with Triton and a C compiler, requirements.txt (of which plotly is only for
# reports, and grain and opencv for ImageNet). PYTHON names the interpreter, default python3.
# --data_dir: the folder of the four original files of Fashion-MNIST (train-images-idx3-ubyte.gz and
# so on, 30 MB; Debian's package dataset-fashion-mnist has them), or a prepared TFDS folder (47 MB).
#
# Where nothing can be downloaded, carry this repository, the four files, and wheels of what is
# missing; beside an image with JAX, Flax, Optax, Orbax and PyTorch, for Python 3.12 these (10 MB):
#
#     pip download --no-deps --only-binary=:all: --python-version=3.12 -d wheels \
#         --platform=manylinux_2_28_x86_64 --platform=manylinux_2_24_x86_64 \
#         --platform=manylinux_2_17_x86_64 --platform=manylinux2014_x86_64 \
#         ml_collections==1.1.0 tensorflow-datasets==4.9.10 tensorflow-metadata array_record \
#         dm-tree googleapis-common-protos immutabledict toml importlib_resources
#     pip wheel --no-deps -w wheels promise
#
# and there:  pip install --no-index --no-deps --target=site wheels/*.whl; export PYTHONPATH=$PWD/site
set -eu
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu.py" "$@"
