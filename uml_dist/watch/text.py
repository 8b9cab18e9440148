"""Text of the page: numbers as people read them, and the words of others made harmless."""

import html
import math
import time

from uml_shards.text import printable, shorten

NAME_LENGTH = 80
"""Longest name that is shown; the middle of a longer one is left out."""

NOTHING = "\N{EN DASH}"
"""What stands for a figure that is not known."""


def escape(text: object, length: int = NAME_LENGTH) -> str:
    """Return text of others for HTML: printable, shortened, and without any markup."""
    return html.escape(shorten(printable(shorten(str(text), length)), length), quote=True)


def figure(value: float | None) -> str:
    """Return a figure with 4 significant digits, such as 0.4526, 12.34 or 3.2e-05; a dash if there is none."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return '<span class="bad">not a number</span>' if math.isnan(value) else '<span class="bad">infinite</span>'
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, min(4, 3 - math.floor(math.log10(abs(value))))) if value else 0}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share as percent; a dash if there is none."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Return a duration in one unit: 120 ms, 41 s, 12 min, 3.2 h, 2.1 days; a dash if there is none."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if 0 < seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2f} ms"
    for limit, factor, unit in ((100.0, 1.0, "s"), (6000.0, 60.0, "min"), (48 * 3600.0, 3600.0, "h")):
        if seconds < limit:
            value = seconds / factor
            return f"{value:.2f} {unit}" if 0 < value < 9.995 and unit != "min" else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def size(count: float | None) -> str:
    """Return a number of bytes: 1.24 GB; a dash if there is none."""
    if count is None or not math.isfinite(count):
        return NOTHING
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def moment(seconds: float | None) -> str:
    """Return a moment in the time of this machine: 29 Nov 14:47:33; a dash if there is none."""
    if seconds is None:
        return NOTHING
    try:
        return time.strftime("%d %b %H:%M:%S", time.localtime(seconds)).lstrip("0")
    except (OverflowError, ValueError, OSError):
        return NOTHING


def ago(seconds: float | None, now: float) -> str:
    """Return how long a moment is ago: "just now", "41 s ago"; a dash if there is none."""
    if seconds is None:
        return NOTHING
    past = now - seconds
    if past < 3:
        return "just now"
    return f"{past:.0f} s ago" if past < 100 else f"{duration(past)} ago"
