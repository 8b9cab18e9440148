"""A real browser, without a window: what it makes of a page, and what it asks for."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium")


def browse(folder: Path, address: str, *words: str) -> str:
    """Open an address in a new browser; return what it prints."""
    return _browse(folder, address, *words).stdout


def complaints_of(folder: Path, address: str) -> list[str]:
    """Open an address in a new browser; return the lines of its console, such as what the page's policy forbids."""
    found = _browse(folder, address, "--enable-logging=stderr", "--dump-dom").stderr
    return [line for line in found.splitlines() if ":CONSOLE" in line]


def _browse(folder: Path, address: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={folder}", *words, address,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def requests_of(log: Path, address: str) -> list[str]:
    """The addresses that a page asked for, by the log of the browser; the browser's own requests are left out."""
    events = json.loads(log.read_text())["events"]
    given = [event["params"] for event in events if "url" in event.get("params", {})]
    return [one["url"] for one in given if one.get("initiator") == address.rstrip("/")]


def screenshot(folder: Path, address: str, scheme: str, number: int) -> np.ndarray:
    """Return what a browser shows of an address as grey values, in a scheme of its number: dark 0, light 1."""
    path = folder / f"{scheme}.png"
    words = (f"--blink-settings=preferredColorScheme={number}", "--window-size=1240,900", f"--screenshot={path}")
    browse(folder / scheme, address, *words)
    return np.asarray(Image.open(path).convert("L"), dtype=float)
