"""Fuzzing: readers get thousands of mutated inputs, each determined by a seed, and every outcome is counted."""

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LIMIT_SECONDS = 20
"""Time after which a reader counts as hanging."""

EXTREMES = (
    *(b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff" * 8, b"\x00" * 512, b"\xff" * 512),
    *(b"NaN", b"-1", b"1e999", b"9" * 30, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"null", b'"', b"\n\x1b[2J"),
    *(b"\\ud800", b"True", b"()", b"../", b"\x93NUMPY", b"ustar", b"7" * 11),
)
"""Bytes that are overwritten or inserted: extreme numbers, and words of the formats in wrong places."""


@dataclass(frozen=True)
class Target:
    """A reader, and a sound input that is mutated for it.

    Attributes:
        name: name of the row in the table.
        sound: the sound input.
        read: reads an input; returns what it contains, compared by ==.
        errors: errors by which it refuses an input, with a message of one line.
        place: names the part of the sound input at an offset, for the table of inputs with another content.
    """

    name: str
    sound: bytes
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    place: Callable[[int], str] = lambda offset: "anywhere"


@dataclass
class Outcomes:
    """What became of the inputs of a target.

    Attributes:
        counts: "unchanged", "refused", "other content" or "crash" -> number of inputs.
        places: part of the input whose change was accepted with another content -> number of inputs.
        crashes: number of the input and its problem.
    """

    counts: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)


def fuzz(target: Target, seed: int, inputs: range) -> Outcomes:
    """Read mutated inputs, and count the outcomes.

    Args:
        target: the reader.
        seed: seed of the mutations.
        inputs: numbers of the inputs; the same number and seed give the same input.
    """
    content, outcomes = target.read(target.sound), Outcomes()
    for number in inputs:
        data, offset = mutated(target.sound, random.Random(f"{seed} {target.name} {number}"))
        try:
            with _limited():
                found = target.read(data)
        except target.errors as error:
            if len(str(error).splitlines()) == 1:
                outcomes.counts["refused"] += 1
                continue
            problem = f"not one line: {error!r}"
        except Exception as error:
            problem = repr(error)
        else:
            outcomes.counts["unchanged" if found == content else "other content"] += 1
            if found != content:
                outcomes.places[target.place(offset)] += 1
            continue
        outcomes.counts["crash"] += 1
        outcomes.crashes.append(f"{target.name}, seed {seed}, input {number}: {problem[:300]}")
    return outcomes


def mutated(data: bytes, draw: random.Random) -> tuple[bytes, int]:
    """Return a mutated copy of bytes, and the offset of the first change."""
    at = draw.randrange(len(data))
    match draw.randrange(5):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :], at
        case 1:
            return data[:at], at
        case 2:
            return data[:at] + draw.choice((draw.randbytes(draw.randint(1, 600)), *EXTREMES)) + data[at:], at
        case 3:
            return data[:at] + data[at + draw.randint(1, 600) :], at
        case _:
            extreme = draw.choice((draw.randbytes(draw.randint(1, 8)), *EXTREMES))
            return data[:at] + extreme + data[at + len(extreme) :], at


@contextmanager
def _limited() -> Iterator[None]:
    """Raise an error in a reader that hangs. Only the main thread can be interrupted."""

    def stop(*_: object) -> None:
        raise RuntimeError(f"not finished after {LIMIT_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
