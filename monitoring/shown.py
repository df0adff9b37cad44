"""How figures are written in a report. Pure."""

COUNTS = ("answers", "labelled")
SHARES = ("mean_risk", "error_rate", "gap", "accepted_share", "accepted_error")


def shown(measure: str, value: float | None, signed: bool = False) -> str:
    """A measure for people: counts in full, rates in percent, others with three decimals; a gap with its sign."""
    if value is None or value != value:
        return "–"
    sign, digits = "+" if signed or measure == "gap" else "", 0 if measure in COUNTS else 3
    value = round(value, digits) + 0.0  # no -0
    if measure in COUNTS:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.1%}" if measure in SHARES else f"{value:{sign}.3f}"


def between(measure: str, low: float | None, high: float | None, signed: bool = False) -> str:
    """An interval for people, empty where there is none."""
    ends = [shown(measure, end, signed) for end in (low, high)]
    return "" if "–" in ends else " to ".join(ends).replace("%", "", 1)
