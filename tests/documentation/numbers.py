"""Regular expressions that match whole numbers of a range, for JSON Schema, which can't compare what is in a string."""

from __future__ import annotations


def whole_numbers(lowest: int, highest: int) -> str:
    """Matches `lowest` to `highest` as decimals without leading zeros. Raises ValueError for an empty range."""
    if not 0 <= lowest <= highest:
        raise ValueError(f"no range: {lowest} to {highest}")
    return "|".join(_pattern(low, high) for low, high in _blocks(lowest, highest))


def _blocks(lowest: int, highest: int) -> list[tuple[int, int]]:
    """The range in pieces whose bounds differ in single digits only: 8-250 is 8-9, 10-99, 100-199, 200-249, 250."""
    bounds = {highest}
    nines = 1
    while (bound := _with_nines(lowest, nines)) < highest:
        bounds.add(bound)
        nines += 1
    zeros = 1
    while (bound := _with_zeros(highest + 1, zeros) - 1) > lowest:
        bounds.add(bound)
        zeros += 1
    blocks = []
    for bound in sorted(bounds):
        if bound >= lowest:
            blocks.append((lowest, bound))
            lowest = bound + 1
    return blocks


def _with_nines(number: int, count: int) -> int:
    return number - number % 10**count + 10**count - 1


def _with_zeros(number: int, count: int) -> int:
    return number - number % 10**count


def _pattern(low: int, high: int) -> str:
    return "".join(
        first if first == last else f"[{first}-{last}]" for first, last in zip(str(low), str(high), strict=True)
    )
