"""Forks processes of launch.py, from one that has imported what they need and started no device.

Importing takes seconds, and tests start a hundred of them. `program.py` runs this file, with the
number of a socket as its argument.
"""

import gc
import json
import os
import socket
import sys
import warnings

# What launch.py imports, at once or later.
import orbax.checkpoint  # noqa: F401

import launch
import scaling.studies  # noqa: F401


def serve(connection):
    """Answer {arguments, cwd, environment} and (stdout, stderr) with the number of a new process,
    and a number with the status that its process ended with."""
    while request := socket.recv_fds(connection, 2**20, 2):
        message, descriptors, *_ = request
        if not message:
            return
        what = json.loads(message)
        reply = os.waitpid(what, 0)[1] if isinstance(what, int) else fork()
        if reply == 0 and descriptors:
            connection.close()
            become(what, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(json.dumps(reply).encode())


def fork():
    with warnings.catch_warnings():  # JAX's, of its threads: there are none yet
        warnings.simplefilter("ignore")
        return os.fork()


def become(what, descriptors):
    os.chdir(what["cwd"])
    os.environ.clear()
    os.environ.update(what["environment"])
    for descriptor, number in zip(descriptors, (1, 2), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = what["arguments"]
    launch.cli()


if __name__ == "__main__":
    gc.freeze()  # what is imported stays shared
    serve(socket.socket(fileno=int(sys.argv[1])))
