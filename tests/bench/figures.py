"""Medians, ratios and slopes. Pure."""

import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """The middle one. Raises ValueError for none."""
    if not values:
        raise ValueError("no value has no median")
    return statistics.median(values)


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Of the straight line that fits best (least squares); None with fewer than two different x."""
    if len({x for x, _ in points}) < 2:
        return None
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def ratio(value: float | None, reference: float | None) -> float | None:
    """How many times the reference; None where one is missing or the reference is nothing."""
    if value is None or not reference:
        return None
    return value / reference
