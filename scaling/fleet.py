"""The points of a study over the machines of a Ray cluster, one task each.

What any engine has to do: run `launch.py --config=C --points=i:i+1 --workdir=W` once per point, on
one machine at a time; take W/POINT/result.json for done; try again after any exit code but 0 and 2.
A point that is started again resumes from its last checkpoint. Ray places each point once, so file
locks between machines, which many shared folders do not have, are not needed.
"""

import os
import signal
import socket
import subprocess
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scaling.errors import UserError
from scaling.signals import Interrupted, Signals

LINES = 8  # of a point's last output, in the error about it


class LostPoint(Exception):
    """A point's process ended without a result; Ray starts it again."""


def run_on_ray(
    address: str | None,
    commands: Mapping[str, Sequence[str]],
    workdir: Path,
    say: Callable[[str], None],
    *,
    gpus: float | None,
    cpus: float,
    retries: int,
) -> None:
    """Run the command of every point to its result.

    Args:
      address: of a running cluster, "HOST:PORT" or "auto"; None: Ray starts on this machine.
      commands: point -> command, in the order in which they start.
      workdir: of the study, in a folder that all machines share, under the same path.
      gpus: of a point; None: one where the cluster has any.
      retries: of a point whose process or machine was lost.

    Raises:
      UserError: Ray is not installed, cannot be reached, or has too little for a point; or points
        have no result in the end.
      Interrupted: a signal came; the running points have saved.
    """
    ray = _started(address)
    try:
        if gpus is None:
            gpus = float(ray.cluster_resources().get("GPU", 0) > 0)
        _check_resources(ray, {"GPU": gpus, "CPU": cpus})
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": retries}
        task = ray.remote(**options, retry_exceptions=[LostPoint])(_run)
        where = str(workdir), os.getcwd()
        tasks = {
            task.options(name=name).remote(name, list(command), *where, gpus): name
            for name, command in commands.items()
        }
        failed = _wait(ray, tasks, workdir, say)
    finally:
        ray.shutdown()
    if failed:
        name, reason = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(commands)} points have no result; run the same command again "
            f"to resume. {name}: {reason}"
        )


def _started(address):
    """Ray, connected."""
    try:
        import ray
    except ImportError:
        raise UserError("--on=ray needs Ray: pip install 'ray>=2.60'.") from None
    try:
        if address and address != "auto":  # Ray would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        with warnings.catch_warnings():  # of a fork beside JAX's threads, which execs at once
            warnings.simplefilter("ignore", RuntimeWarning)
            ray.init(address=address, logging_level="ERROR")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Cannot reach the Ray cluster at {address or 'this machine'} ({reason}); start one "
            "with `ray start --head` and give its HOST:PORT."
        ) from None
    return ray


def _check_resources(ray, wanted):
    """UserError where no machine has what a point needs: Ray would wait for one for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(kind, 0) >= n for kind, n in wanted.items()) for node in nodes):
        most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in wanted}
        flags = " and ".join(f"--{kind.lower()}s_per_point={n:g}" for kind, n in wanted.items())
        raise UserError(
            f"No machine of the cluster has what a point needs, {flags}; the most there is on one "
            f"is {most['GPU']:g} GPUs and {most['CPU']:g} CPUs."
        )


def _wait(ray, tasks, workdir, say):
    """Until all have ended; point -> why it has no result, of those that have none."""
    waiting, failed = list(tasks), {}
    with Signals() as signals:
        while waiting:
            done, waiting = ray.wait(waiting, timeout=0.5)
            if signals.received:
                for each in waiting:
                    ray.cancel(each)
                ray.wait(waiting, num_returns=len(waiting), timeout=60)
                when = "before all points were done; what was done is saved."
                raise Interrupted(signals.received, when)
            for each in done:
                name = tasks[each]
                try:
                    host, error = ray.get(each)
                except ray.exceptions.RayError as lost:
                    host, error = "a lost machine", str(lost).strip().splitlines()[-1]
                if not error and not (workdir / name / "result.json").exists():
                    error = f"its result is on {host}, not in {workdir}; use a shared folder"
                if error:
                    failed[name] = error
                say(f"{name}: {'failed' if error else 'done'} on {host}")
    return failed


def _run(name, command, workdir, folder, gpus):
    """In a task of Ray: (machine, why there is no result or None).

    The point's process ends with this one, whose death closes its standard input, see
    `workers.stop_with_parent`.
    """
    environment = dict(os.environ)
    if gpus == 0:
        environment["JAX_PLATFORMS"] = "cpu"
    elif gpus < 1:  # JAX would take three quarters of the memory
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"
    host, last = socket.gethostname(), []
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        for line in process.stdout:
            last = [*last, line.rstrip()][-LINES:]
            print(line, end="", flush=True)  # Ray shows it where the study was started
        code = process.wait()
    except KeyboardInterrupt:  # cancelled
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    if Path(workdir, name, "result.json").exists():
        return host, None
    if code not in (0, 2):
        raise LostPoint(f"exit code {code} on {host}: {' / '.join(last)}")
    return host, " / ".join(last) if code else "another process is at work on it"
