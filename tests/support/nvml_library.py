"""A stand-in for the driver's library libnvidia-ml: what lies below pynvml, which itself is the real one.

So the functions, structures, constants and exceptions that a test sees are pynvml's; this has the C functions'
arguments, units (percent, mW, mJ, MHz, bytes) and return codes.
"""

import ctypes
import queue
import threading
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_void_p
from dataclasses import dataclass, field
from typing import Any

import pynvml

SUCCESS = 0
MIG_ADDRESS = 1000


@dataclass
class Card:
    """A GPU of the machine.

    Attributes:
        uuid: "GPU-...".
        answers: C function -> the number that it reports.
        codes: C function -> return code other than success.
        instances: UUIDs of its instances of MIG.
    """

    uuid: str
    answers: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    instances: tuple[str, ...] = ()
    everywhere: int | None = None  # return code of all functions

    def __post_init__(self) -> None:
        self.answers = {
            "nvmlDeviceGetUtilizationRates": (87, 40),  # GPU and memory, percent
            "nvmlDeviceGetMemoryInfo": (85_899_345_920, 64_424_509_440, 21_474_836_480),  # total, free, used
            "nvmlDeviceGetPowerUsage": 312_500,
            "nvmlDeviceGetTotalEnergyConsumption": 7_200_000_000,
            "nvmlDeviceGetTemperature": 64,
            "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 1410, pynvml.NVML_CLOCK_MEM: 1593},
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetSupportedClocksEventReasons": 0x1FF,
            "nvmlDeviceGetTotalEccErrors": {(0, 0): 12, (1, 0): 1, (0, 1): 99, (1, 1): 98},  # (kind, lifetime)
        } | self.answers


class NvmlLibrary:
    """The library; `install` puts it under pynvml.

    Args:
        cards: GPUs by index.
        missing: C functions that this version of the library does not have.
    """

    def __init__(self, *cards: Card, missing: tuple[str, ...] = ()) -> None:
        self.cards = list(cards)
        self.missing = missing
        self.initialised = True
        self.calls: list[str] = []
        self.events: queue.Queue[int] = queue.Queue()
        self.waits = threading.Semaphore(0)  # released at each wait for events
        self.freed = threading.Event()
        self.hold: threading.Event | None = None  # lets nvmlDeviceGetPowerUsage hang until it is set

    def install(self, monkeypatch: Any) -> "NvmlLibrary":
        monkeypatch.setattr(pynvml, "nvmlLib", self)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml") or name in self.missing:
            raise AttributeError(name)

        def function(*arguments: Any) -> Any:  # pynvml sets attributes of some functions
            self.calls.append(name)
            return self._call(name, *arguments)

        return function

    def _call(self, name: str, *arguments: Any) -> Any:
        if name == "nvmlErrorString":
            return b"error"
        if not self.initialised and name != "nvmlInitWithFlags":
            return pynvml.NVML_ERROR_UNINITIALIZED
        own = getattr(type(self), f"_{name}", None)
        if own is not None:
            return own(self, *arguments)
        card, reference = self.cards[self._index(arguments[0])], arguments[-1]
        code = self._code(name, card)
        if code != SUCCESS:
            return code
        if name not in card.answers:
            raise NotImplementedError(name)
        if self._is_instance(arguments[0]) and name != "nvmlDeviceGetMemoryInfo":
            return pynvml.NVML_ERROR_NOT_SUPPORTED
        answer = card.answers[name]
        if isinstance(answer, dict):
            keys = tuple(argument.value for argument in arguments[1:-1])
            answer = answer[keys if len(keys) > 1 else keys[0]]
        target = reference._obj
        if isinstance(answer, tuple):
            for (member, *_), value in zip(target._fields_, answer, strict=True):
                setattr(target, member, value)
        elif name == "nvmlDeviceGetTemperatureV":
            target.temperature = answer
        else:
            target.value = answer
        if name == "nvmlDeviceGetPowerUsage" and self.hold is not None:
            self.hold.wait()
        return SUCCESS

    def _code(self, name: str, card: Card) -> int:
        return card.codes.get(name, SUCCESS) if card.everywhere is None else card.everywhere

    @staticmethod
    def _point(reference: Any, address: int) -> int:
        ctypes.cast(reference, POINTER(c_void_p))[0] = address
        return SUCCESS

    @staticmethod
    def _address(handle: Any) -> int:
        return ctypes.cast(handle, c_void_p).value or 0

    def _is_instance(self, handle: Any) -> bool:
        return self._address(handle) >= MIG_ADDRESS

    def _index(self, handle: Any) -> int:
        address = self._address(handle)
        return (address // MIG_ADDRESS if address >= MIG_ADDRESS else address) - 1

    def _nvmlInitWithFlags(self, flags: int) -> int:
        return SUCCESS if self.initialised else pynvml.NVML_ERROR_DRIVER_NOT_LOADED

    def _nvmlDeviceGetCount_v2(self, reference: Any) -> int:
        reference._obj.value = len(self.cards)
        return SUCCESS

    def _nvmlSystemGetDriverVersion(self, buffer: Any, size: Any) -> int:
        buffer.value = b"550.54.15"
        return SUCCESS

    def _nvmlDeviceGetHandleByIndex_v2(self, index: Any, reference: Any) -> int:
        if index.value >= len(self.cards):
            return pynvml.NVML_ERROR_INVALID_ARGUMENT
        code = self._code("nvmlDeviceGetHandleByIndex_v2", self.cards[index.value])
        return self._point(reference, index.value + 1) if code == SUCCESS else code

    def _nvmlDeviceGetHandleByUUID(self, uuid: c_char_p, reference: Any) -> int:
        text = (uuid.value or b"").decode()
        for index, card in enumerate(self.cards, start=1):
            if text == card.uuid:
                return self._point(reference, index)
            if text in card.instances:
                return self._point(reference, index * MIG_ADDRESS + card.instances.index(text))
        return pynvml.NVML_ERROR_NOT_FOUND

    def _nvmlDeviceGetUUID(self, handle: Any, buffer: Any, size: Any) -> int:
        card = self.cards[self._index(handle)]
        place = self._address(handle) % MIG_ADDRESS
        buffer.value = (card.instances[place] if self._is_instance(handle) else card.uuid).encode()
        return SUCCESS

    def _nvmlDeviceIsMigDeviceHandle(self, handle: Any, reference: Any) -> int:
        reference._obj.value = self._is_instance(handle)
        return SUCCESS

    def _nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any, reference: Any) -> int:
        return self._point(reference, self._index(handle) + 1)

    def _nvmlEventSetCreate(self, reference: Any) -> int:
        return self._point(reference, 7)

    def _nvmlDeviceRegisterEvents(self, handle: Any, types: Any, events: Any) -> int:
        assert types.value == pynvml.nvmlEventTypeXidCriticalError
        return self._code("nvmlDeviceRegisterEvents", self.cards[self._index(handle)])

    def _nvmlEventSetWait_v2(self, events: Any, reference: Any, milliseconds: Any) -> int:
        self.waits.release()
        try:
            number = self.events.get(timeout=milliseconds.value / 1000)
        except queue.Empty:
            return pynvml.NVML_ERROR_TIMEOUT
        if number < 0:
            return -number
        reference._obj.eventType, reference._obj.eventData = pynvml.nvmlEventTypeXidCriticalError, number
        return SUCCESS

    def _nvmlEventSetFree(self, events: Any) -> int:
        self.freed.set()
        return SUCCESS
