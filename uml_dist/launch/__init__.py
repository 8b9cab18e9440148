"""Starts the number of workers that the user requested: devices, ranks and launcher."""

from .devices import Devices, find_devices
from .ending import end_process
from .world import World, ensure_world, enter_world, exit_with_error, planned_ranks, read_world, script_arguments

__all__ = [
    "Devices",
    "World",
    "end_process",
    "ensure_world",
    "enter_world",
    "exit_with_error",
    "find_devices",
    "planned_ranks",
    "read_world",
    "script_arguments",
]
