"""Starting the world that the user asked for: devices, ranks, launcher."""

from uml_dist.launch.devices import Devices, find_devices
from uml_dist.launch.world import World, ensure_world, enter_world, leave_with, read_world, script_arguments

__all__ = [
    "Devices",
    "World",
    "ensure_world",
    "enter_world",
    "find_devices",
    "leave_with",
    "read_world",
    "script_arguments",
]
