"""One run over several hosts: a process on each, and all do the same at the same time.

Process 0, the leader, has the run directory: what is read of it all get from there, what is written
it alone writes, and it alone prints. Whatever a clock, a memory size, a file or a signal tells one
process becomes an answer that all have before anything depends on it. Answers travel through the
key-value store of JAX's coordinator, which is in the leader's process; arrays through the devices.

A process that ends too early tells the others why, and they end with the same sentence and exit
code. One that is killed cannot; the others notice, and end with the exit code `LOST`. Where nothing
was started, every function returns what it was given.
"""

import contextlib
import ctypes
import functools
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scaling.config import differences
from scaling.errors import UserError

LOST = 75  # exit code: a process is gone; all are to be started again
ANSWER_SECONDS = 45  # for a process to reach the others, which may have been started later
HEARTBEAT_SECONDS = 30  # after which a host that says nothing is lost
FAREWELL_SECONDS = 10  # for the others to end too, after a failure
FOREVER = 10**12  # milliseconds; a wait for a process that is gone ends by itself


class _Run:
    """This process among the others."""

    count, index = 1, 0
    client = None  # of the coordinator; None: not started
    answers, calls = itertools.count(), itertools.count()  # numbers, the same on all
    by_itself = False  # inside what the leader does for all
    began = None  # when it began to look for the others; None: it has found them
    ending = threading.Lock()  # of whoever ends this process
    code = None  # that it then ends with
    stderr = 2


def several() -> bool:
    """Whether other processes take part in this run."""
    return _Run.count > 1


def leads() -> bool:
    """Whether this process reads, writes and prints."""
    return _Run.index == 0


# ---- What all agree on ----


def everyones(value: Any) -> list[Any]:
    """The value, JSON, of every process in order."""
    if not several():
        return [value]
    name = f"answer/{next(_Run.answers)}"
    _Run.client.key_value_set(f"{name}/{_Run.index}", json.dumps(value))
    get = lambda i: _Run.client.blocking_key_value_get(f"{name}/{i}", FOREVER)
    return [json.loads(get(i)) for i in range(_Run.count)]


def from_leader(value: Any, name: str | None = None) -> Any:
    """The leader's value, JSON."""
    if not several():
        return value
    name = name or f"answer/{next(_Run.answers)}"
    if leads():
        _Run.client.key_value_set(name, text := json.dumps(value))
    else:
        text = _Run.client.blocking_key_value_get(name, FOREVER)
    return json.loads(text)


def arrays_from_leader(tree: Any) -> Any:
    """The leader's arrays, bit for bit; others give a tree of the same shapes and types."""
    from jax import tree as trees
    from jax.experimental.multihost_utils import broadcast_one_to_all

    # As bytes: it is a sum over hosts, which would lose the sign of zero.
    raw = trees.map(lambda a: np.ascontiguousarray(a).reshape(-1).view(np.uint8), tree)
    whole = lambda raw, like: np.asarray(raw).view(like.dtype).reshape(like.shape)
    return trees.map(whole, broadcast_one_to_all(raw), tree)


def before_call(signum: int | None, *values: Any) -> list[Any]:
    """Once before every call of a program: the first signal that any process received, or None, and
    the leader's values."""
    if not several():
        return [signum, *values]
    number = next(_Run.calls)
    if signum and not leads():
        _Run.client.key_value_set("signal", str(signum), allow_overwrite=True)
    if leads() and not signum:
        with contextlib.suppress(RuntimeError):  # there is none
            signum = int(_Run.client.key_value_try_get("signal"))
    if leads() and number > 1:  # all have read it, as they have trained together since
        _Run.client.key_value_delete(f"call/{number - 2}")
    return from_leader([signum, *values], f"call/{number}")


def leader_only(function: Callable) -> Callable:
    """The leader calls the function; the others get None, and do not wait."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        if _Run.by_itself or not several():
            return function(*args, **kwargs)
        if leads():
            _Run.by_itself = True  # what it calls in turn is not for all
            try:
                return function(*args, **kwargs)
            finally:
                _Run.by_itself = False

    return wrapped


def by_leader(function: Callable) -> Callable:
    """The leader calls the function, and all get its answer, JSON."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        answer = leader_only(function)(*args, **kwargs)
        return answer if _Run.by_itself else from_leader(answer)

    return wrapped


# ---- The beginning ----


def start(how: str, facts: Mapping[str, Any]) -> None:
    """Find the other processes, and see that all are to do the same.

    Args:
      how: "auto", "mpi4py", or "ADDRESS:PORT,N,I".
      facts: what must be the same, JSON.

    Raises:
      UserError: it is none of these, no answer within a minute, or processes that differ.
    """
    import jax

    where = _where(how)
    _Run.began, _Run.stderr = time.monotonic(), os.dup(2)
    _Run.aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(_aborted)
    ctypes.CDLL(None).signal(signal.SIGABRT, _Run.aborted)
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)  # what Gloo and the coordination tell
    try:
        _connect(how, where)
        _check_same(facts)
        devices = jax.local_devices()
        _check_same({"devices": f"{len(devices)} x {devices[0].device_kind}"})
        # Gloo gives its connections 30 seconds, from when the first process asks for them.
        arrays_from_leader(np.zeros(1))
    finally:
        os.dup2(_Run.stderr, 2)
        if leads():
            os.dup2(stdout, 1)


def _connect(how, where):
    import jax
    from jax._src.distributed import global_state  # its key-value store has no public name

    # JAX's own way to agree on a signal would keep it from ours.
    jax.config.update("jax_enable_preemption_service", False)
    if where.get("process_id") == 0:
        _until_free(where["coordinator_address"])
    left = ANSWER_SECONDS + 5 - (time.monotonic() - _Run.began)
    try:
        jax.distributed.initialize(
            **where,
            local_device_ids=[],  # all: under Slurm and Open MPI it would be one
            initialization_timeout=int(left),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"--hosts={how} finds no other processes ({reason}); start them by Slurm, Open MPI or "
            "on a TPU pod, or give --hosts=ADDRESS:PORT,N,I."
        ) from None
    _listen_at(_own_address(global_state.coordinator_address))
    _Run.client, _Run.began = global_state.client, None
    _Run.count, _Run.index = global_state.num_processes, global_state.process_id
    threading.Thread(target=_watch, daemon=True).start()


def _own_address(coordinator):
    """The address from which this machine reaches another."""
    host, _, port = coordinator.rpartition(":")
    ways = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)
    family, kind, _, _, there = ways[0]
    with socket.socket(family, kind) as own:
        own.connect(there)  # sends nothing
        return own.getsockname()[0]


def _listen_at(address):
    """Gloo listens at the address of the host's name, which many /etc/hosts set to a loopback
    one, where no other host reaches it. JAX has no option for another."""
    from jax._src.lib import _jax

    make = functools.partial(_jax.make_gloo_tcp_collectives, hostname=address)
    _jax.make_gloo_tcp_collectives = make


def _where(how):
    """Arguments of `jax.distributed.initialize`."""
    if how in ("auto", "mpi4py"):
        return {"cluster_detection_method": how} if how == "mpi4py" else {}
    match = re.fullmatch(r"(\S+:(\d{1,5})),(\d{1,6}),(\d{1,6})", how)
    if not (match and 0 < int(match[2]) < 2**16 and int(match[4]) < int(match[3])):
        raise UserError(
            f"--hosts={how} is no place among hosts; write auto, mpi4py, or ADDRESS:PORT,N,I: the "
            "address of process 0, how many there are, and which of 0 to N - 1 this is."
        )
    return {
        "coordinator_address": match[1],
        "coordinator_bind_address": match[1],  # JAX would listen on all addresses of the machine
        "num_processes": int(match[3]),
        "process_id": int(match[4]),
    }


def _until_free(address):
    """Wait until process 0 can listen there: one that was killed may still hold the port."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        try:
            return socket.create_server((host.strip("[]"), int(port)), family=family).close()
        except OSError as error:
            reason = error.strerror or error
        if time.monotonic() - _Run.began > FAREWELL_SECONDS:
            raise UserError(
                f"Cannot listen at {address} ({reason}); give an address of the machine of process "
                "0 and a port that is free there."
            )
        time.sleep(0.3)


def _check_same(facts):
    """Nothing, if they are the same on all processes; else a UserError, on all."""
    leader, *others = everyones(json.loads(json.dumps(facts)))
    for i, other in enumerate(others, 1):
        if changed := differences(leader, other):
            raise UserError(
                f"Process {i} (here) is to do something else than process 0 (there): "
                f"{'; '.join(changed[:3])}; give all the same command, code, packages, data and "
                "number of devices."
            )


# ---- The end ----


def lost(reason: Any) -> str | None:
    """What to say if an exception means that another process is gone; None if it does not."""
    line = (str(reason).splitlines() or [""])[0][:200]
    words = "gloo|nccl|unavailable|deadline_exceeded|aborted|cancelled|coordination"
    if re.search(words, line, re.IGNORECASE):
        return (
            f"Another process of this run is gone ({line}); start all of them again to resume from "
            "the last checkpoint."
        )


def leave(code: int, text: str, agreed: bool) -> None:
    """End this process with what it has to say and its exit code, and the others with it.

    Args:
      agreed: all end like this by themselves, and after the leader.
    """
    if agreed and not leads():
        _tell(text)
        threading.Event().wait()  # for `_watch`: the leader may have something left to do, or fail
    if not _Run.ending.acquire(blocking=False):
        threading.Event().wait()  # another thread is at it
    _Run.code = code
    _tell(text)
    if _Run.client is None:
        if code:
            sys.exit(code)
        return
    with contextlib.suppress(RuntimeError):  # the leader is gone, or another was first
        _Run.client.key_value_set("end", json.dumps([code, "" if agreed else text]))
    _end(code)


def _watch():
    """End as soon as another process says so, or the leader is gone."""
    try:
        code, text = json.loads(_Run.client.blocking_key_value_get("end", FOREVER))
    except RuntimeError as error:
        code, text = LOST, lost(f"coordination: {error}")
    if _Run.ending.acquire(blocking=False):
        _Run.code = code
        _tell(text)
        _end(code)


def _end(code):
    """End when all do, or after some seconds. The interpreter's own end would wait for minutes."""

    def shut_down():
        import jax

        with contextlib.suppress(RuntimeError):
            jax.distributed.shutdown()

    if code != LOST:
        thread = threading.Thread(target=shut_down, daemon=True)
        thread.start()
        thread.join(FAREWELL_SECONDS)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


def _tell(text):
    if text:
        os.write(_Run.stderr, f"{text}\n".encode())


def _aborted(_):
    """JAX's coordination aborts a process where another is gone, or does not come."""
    code, text = LOST, lost("coordination: another process is silent, or was started anew")
    if _Run.began and time.monotonic() - _Run.began > ANSWER_SECONDS:
        code, text = 2, "error: Not all processes of this run came within a minute; start all N of "
        text += "--hosts, with the same address, which must be open to them."
    if _Run.ending.acquire(blocking=False):
        _tell(text)
    os._exit(code if _Run.code is None else _Run.code)
