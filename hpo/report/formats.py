"""Numbers and names as they are read: in sentences, tables and figures of a report, all as plain text."""

import math
from collections.abc import Sequence
from typing import Final

from hpo.plain_text import printable
from hpo.report.tables import metric_in_words
from hpo.results import Estimate

MINUS: Final = "−"


def score(value: float, error: float | None = None) -> str:
    """`0.8132`, `0.8132 ± 0.0120`; nothing for what is not finite."""
    if not math.isfinite(value):
        return ""
    return f"{value:.4f}".replace("-", MINUS) + (f" ± {error:.4f}" if error is not None else "")


def estimate(found: Estimate) -> str:
    """`0.813 (0.795 to 0.831)`: the value and its interval."""
    return f"{short(found.value)} ({short(found.low)} to {short(found.high)})"


def difference(found: Estimate) -> str:
    """`+0.013 (−0.002 to +0.028)`: with its signs."""
    return f"{signed(found.value)} ({signed(found.low)} to {signed(found.high)})"


def short(value: float) -> str:
    """Three decimals, more than an interval of some hundred rows bears."""
    return f"{value:.3f}".replace("-", MINUS)


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """`p = 0.013`, `p < 0.001`."""
    return f"p {p_cell(p)}" if p < 0.001 else f"p = {p_cell(p)}"


def p_cell(p: float) -> str:
    """The same in a column of its own: `0.013`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def value(given: object) -> str:
    """Three digits are enough to read: 2.35e-05, 0.15."""
    if given is None or (isinstance(given, float) and math.isnan(given)):
        return ""
    text = f"{given:.3g}" if isinstance(given, float) else str(given)
    return text if len(text) <= 32 else f"{text[:15]}…{text[-16:]}"


def duration(seconds: float) -> str:
    """`48 s`, `3 min 5 s`, `1 h 2 min`."""
    if math.isnan(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def time_unit(longest: float) -> tuple[str, float]:
    """The unit of an axis of times up to so many seconds, and its seconds."""
    return ("h", 3600) if longest > 3 * 3600 else ("min", 60) if longest >= 180 else ("s", 1)


def count(number: float, noun: str) -> str:
    """`1 trial`, `16 trials`, `0.5 epochs`."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def share(part: float) -> str:
    return f"{part:.0%}"


def metric(name: str) -> str:
    """A metric in words: `macro F1`, `F1 of positive`, `calibration error`."""
    of = name.removeprefix("eval/")
    return f"F1 of {of.removeprefix('f1/')}" if of.startswith("f1/") else metric_in_words(of)


def shortened(text: str, length: int) -> str:
    """In one line of bounded length: what others wrote, for a figure."""
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= length else f"{shown[: length // 2]}…{shown[1 - length // 2 :]}"


def first_up(text: str) -> str:
    return text[:1].upper() + text[1:]
