"""Numbers as files keep them."""


def to_digits(value: float, digits: int) -> float:
    """`value` with that many significant digits."""
    return float(f"{value:.{digits}g}")
