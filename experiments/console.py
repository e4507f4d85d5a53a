"""Text for the terminal: the one place that escapes rich's markup and prints error messages."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

__all__ = ["escape", "print_error"]


def print_error(message: object) -> None:
    """Prints `message` to stderr after a red `error:`. Square brackets in it are printed as they are."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(message))}")
