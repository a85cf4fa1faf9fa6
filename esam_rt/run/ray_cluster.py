"""Connects to Ray, quietly, and counts the workers that it has room for."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from esam_rt.errors import DeviceError, MissingDependencyError, SettingsError
from esam_rt.usable_cpus import usable_cpus

LOCAL, AUTO = "local", "auto"
ANSWER_S = 10.0  # for a cluster. Ray itself tries for minutes
STORE_BYTES = 128 << 20  # of a local Ray: lines of the journal go through it. Ray's default is 30 % of the memory


@dataclass(frozen=True)
class RayOptions:
    """Options of a run on Ray.

    Attributes:
        address: ``local`` starts Ray on this machine, and ends it with the run. ``auto`` is the cluster that this
            machine is part of. ``host:port`` is another one.
        workers: Most workers. Default: as many as the cluster has room for now. A cluster that grows by itself grows
            for more.
        gpus: GPUs of a worker. A half puts two workers on one GPU. Default: 1, or 0 on device ``cpu``.

    Raises:
        SettingsError: If a number is out of range, or the address is something else.
    """

    address: str = LOCAL
    workers: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.address not in (LOCAL, AUTO) and not re.fullmatch(r"[^/:]+:\d+", self.address):
            raise SettingsError(f"--ray {self.address}: expected local, auto or HOST:PORT.")
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"--ray-workers {self.workers}: expected at least 1.")
        if self.gpus is not None and not 0 <= self.gpus < math.inf:
            raise SettingsError(f"--ray-gpus {self.gpus}: expected a number from 0 on, such as 0.5 or 1.")


@dataclass(frozen=True)
class Slot:
    """Share of a machine that one worker takes.

    Attributes:
        cpus: CPUs.
        gpus: GPUs, also a fraction.
    """

    cpus: int
    gpus: float

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.cpus} CPUs{gpus}"


@contextmanager
def connected(options: RayOptions, slot: Slot) -> Iterator[Any]:
    """Connect to Ray. If the program is connected already, that connection is used and stays.

    Args:
        options: The address.
        slot: Share of a worker.

    Yields:
        The module ``ray``.

    Raises:
        MissingDependencyError: If Ray is not installed.
        DeviceError: If it cannot be started or reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
    except ImportError as e:
        raise MissingDependencyError("--ray needs Ray: pip install 'esam-rt[ray]'.") from e
    if ray.is_initialized():
        yield ray
        return
    # It is not in Ray's interface: the death of a worker is printed on stdout, also if log_to_driver is false.
    ray._private.worker._worker_logs_enabled = False
    local: dict[str, Any] = {}
    if options.address == LOCAL:
        cpus = max(usable_cpus(), slot.cpus * (options.workers or 1))
        local = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    is_main = threading.current_thread() is threading.main_thread()
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        try:
            if options.address not in (LOCAL, AUTO):
                host, _, port = options.address.rpartition(":")
                socket.create_connection((host, int(port)), ANSWER_S).close()
            ray.init(options.address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except Exception as e:  # Ray raises a plain Exception if its processes start too slowly
            reason = " ".join(str(e).split())
            raise DeviceError(
                f"--ray {options.address}: Ray cannot be reached ({reason:.200}). Start it with `ray start --head`, or "
                "give --ray local."
            ) from e
        finally:
            if is_main:
                signal.signal(signal.SIGTERM, on_terminate or signal.SIG_DFL)  # Ray ends the process with it
        yield ray
    finally:
        ray.shutdown()


def worker_count(ray: Any, options: RayOptions, slot: Slot) -> int:
    """Count the workers that a run may have.

    Args:
        ray: The module, connected.
        options: Options of the run.
        slot: Share of a worker.

    Raises:
        DeviceError: If no machine has room for one.
    """
    if options.workers is not None:
        return options.workers
    count = sum(_room(node["Resources"], slot) for node in ray.nodes() if node["Alive"])
    if count == 0:
        raise DeviceError(
            f"--ray {options.address}: no machine has {slot} for a worker. Lower --threads or --ray-gpus, or give "
            "--ray-workers if the cluster grows by itself."
        )
    return count


def _room(resources: dict[str, float], slot: Slot) -> int:
    rounding = 1e-9  # ten workers of 0.1 GPUs fit on one
    room = [resources.get("CPU", 0) / slot.cpus]
    if slot.gpus:
        room.append(resources.get("GPU", 0) / slot.gpus)
    return math.floor(min(room) + rounding)
