#!/usr/bin/env bash
# Benchmarks on one GPU, in at most ten minutes:
#
#     bash benchmarks/gpu.sh --data_dir=DIR [--out=benchmarks/results/gpu] [--seconds=560]
#
# The parts, in this order; each result is written to OUT/PART.json at once, with the device's name:
#
#     resnet50        ResNet-50, bfloat16, batch 256: training steps against PyTorch's, compiled,
#                     channels_last; images per second, share of the dense peak
#     throughput_resnet50, throughput_tiramisu, throughput_deeplab
#                     configs/throughput.py: seconds of an update at per-device batches 8 to 512 (1
#                     to 8 of maps of 768x1152), its input, bytes by the compiler and on the device,
#                     activations kept and computed again, on several devices the measured overlap;
#                     records in OUT/throughput, every timing at once in their metrics.jsonl
#     populations     trial-steps per second of the digits and Fashion-MNIST MLPs and the Simple CNN
#     panel_b         configs/shallue.py:fashion_mnist_cnn, with as many batch sizes and trials as
#                     the remaining time allows; records in OUT/panel_b.tgz
#
# A part that fails or reaches its limit does not stop the next; OUT/summary.json has all of them.
# The study is in runs/gpu/panel_b; the same command with --parts=panel_b resumes it. To check all
# parts on a CPU, at meaningless sizes: add --toy --seconds=1500.
#
# Requirements: Linux, Python 3.11 or newer, CUDA 13, jax[cuda13] 0.11 (0.10 to 0.13), torch 2.11
# with Triton and a C compiler, requirements.txt (opencv is only for ImageNet). PYTHON is
# the interpreter, default python3.
# --data_dir: the folder of the four original files of Fashion-MNIST (train-images-idx3-ubyte.gz and
# so on, 30 MB; Debian's package dataset-fashion-mnist has them), or a prepared TFDS folder (47 MB).
#
# Offline, bring this repository, the four files, and wheels of missing packages; with an image that
# has JAX, Flax, Optax, Orbax and PyTorch, for Python 3.12 these (10 MB):
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
