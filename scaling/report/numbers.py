"""Numbers as people read them: counts with K, M, B and T, and intervals with the digits that they support."""

from __future__ import annotations

import math

Ends = tuple[float | None, float | None]
SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
LARGEST_NAMED = 1e15
"""From here on a count is a power of ten: few people know a name for it."""
WIDE = 3.0
"""Above this ratio of an interval's ends, each end has two digits of its own."""


ROUNDING = 1e-6
"""An interval narrower than this part of its ends has one point: its width is that of rounding."""


def amount(value: float | None, digits: int = 3) -> str:
    """Returns a count as people say it: 449K, 1.5M, 100B; 2e18 above a thousand trillion; a dash if it is missing."""
    if value is None or not math.isfinite(value):
        return "-"
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= LARGEST_NAMED:
        return flops(value, digits)
    scale, letter = next((pair for pair in SCALES if abs(rounded) >= pair[0]), (1.0, ""))
    return f"{_plain(rounded / scale)}{letter}"


def flops(value: float | None, digits: int = 3) -> str:
    """Returns FLOPs as a power of ten, 1.2e18; a dash if they are missing."""
    if value is None or not math.isfinite(value):
        return "-"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def interval(ends: Ends | None, *, count: bool = False) -> str:
    """Returns [low, high] with two digits of the interval's width, and a dash for a missing end.

    With `count` the ends are written as `amount` writes them.
    """
    low, high = ends or (None, None)
    return "[" + ", ".join(_end(end, low, high, count) for end in (low, high)) + "]"


def estimate(value: float | None, ends: Ends | None, *, count: bool = False) -> str:
    """Returns a value with its 95 % interval, as in 0.30 [0.26, 0.41]; without an interval the value alone."""
    low, high = ends or (None, None)
    if low is None and high is None:
        return amount(value) if count else _digits(value, 4)
    return f"{_end(value, low, high, count)} {interval(ends, count=count)}"


def _end(value: float | None, low: float | None, high: float | None, count: bool) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    if count:
        return amount(value, 2 if low is None or high is None or high > 1.5 * low else 3)
    if low is None or high is None or not _has_width(low, high):
        return _digits(value, 3)
    if 0 < low < high / WIDE:
        return f"{value:#.2g}".rstrip(".") if 1e-4 <= value < 99.5 else _digits(value, 2)
    decimals = 1 - math.floor(math.log10(high - low))
    return f"{value:.{decimals}f}" if decimals > 0 else f"{value:,.0f}"


def _has_width(low: float, high: float) -> bool:
    return math.isfinite(high - low) and high - low > ROUNDING * max(abs(low), abs(high))


def _digits(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    if value and not 1e-4 <= abs(value) < 1e6:
        return flops(value, digits)
    return _plain(float(f"{value:.{digits}g}"))


def _plain(value: float) -> str:
    """Returns the shortest digits of a number that is rounded already, thousands separated."""
    return f"{value:,.10g}"
