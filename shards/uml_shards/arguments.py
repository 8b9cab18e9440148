"""The parser of command lines."""

import argparse
from typing import NoReturn

from .text import message_of


class ArgumentParser(argparse.ArgumentParser):
    """Reports a wrong argument as one printable line: argparse repeats unknown arguments unchanged."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with code 2."""
        super().error(message_of(message))
