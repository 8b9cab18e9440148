"""Damage the bytes of files at random, from a seed."""

from random import Random

_ODD = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff")


def damaged(data: bytes, random: Random) -> bytes:
    """Return the bytes with up to three changed ones, and sometimes with bytes added or cut off."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(changed))
        flipped = bytes([changed[place] ^ (1 << random.randrange(8))])
        changed[place : place + 1] = random.choice((*_ODD, flipped, flipped, random.randbytes(1)))
    if random.random() < 0.1:
        place = random.randrange(len(changed))
        changed[place:place] = random.randbytes(random.randrange(1, 9))
    if random.random() < 0.1:
        del changed[random.randrange(len(changed)) :]
    return bytes(changed)
