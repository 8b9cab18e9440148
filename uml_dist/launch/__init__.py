"""Starts the number of workers that the user requested: devices, ranks and launcher."""

from .ancestors import watch_launchers
from .devices import Devices, find_devices
from .ending import end_process
from .restarts import Restarts
from .stopping import stop_on_signals
from .world import (
    World,
    ensure_world,
    enter_world,
    exit_stopped,
    exit_with_error,
    machine_count,
    planned_ranks,
    read_world,
    script_arguments,
)

__all__ = [
    "Devices",
    "Restarts",
    "World",
    "end_process",
    "ensure_world",
    "enter_world",
    "exit_stopped",
    "exit_with_error",
    "find_devices",
    "machine_count",
    "planned_ranks",
    "read_world",
    "script_arguments",
    "stop_on_signals",
    "watch_launchers",
]
