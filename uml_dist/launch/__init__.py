"""Starting the world that the user asked for: devices, ranks, launcher."""

from .devices import Devices, find_devices
from .ending import end_process
from .world import World, ensure_world, enter_world, leave_with, planned_ranks, read_world, script_arguments

__all__ = [
    "Devices",
    "World",
    "end_process",
    "ensure_world",
    "enter_world",
    "find_devices",
    "leave_with",
    "planned_ranks",
    "read_world",
    "script_arguments",
]
