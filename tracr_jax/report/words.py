"""Numbers and lists as a reader wants them, in plain text; nothing here is escaped."""

from collections.abc import Sequence

NBSP = "\u00a0"


def percent(share: float | None) -> str:
    """A share in percent: whole numbers, one digit near the ends where whole numbers would hide something."""
    if share is None:
        return "–"
    return f"{_near_the_ends(share)}{NBSP}%"


def tenths(share: float | None) -> str:
    """A share in percent with one digit, without the sign; 0 and 100 are said of nothing else."""
    if share is None:
        return "–"
    text = f"{100 * share:.1f}"
    return "<0.1" if text == "0.0" and share > 0 else ">99.9" if text == "100.0" and share < 1 else text


def whole(share: float | None) -> str:
    """A share in whole percent, without the sign, where there is no room for more; 0 and 100 as in `tenths`."""
    if share is None:
        return "–"
    return f"{min(max(100 * share, 1), 99) if 0 < share < 1 else 100 * share:.0f}"


def interval(low: float, high: float) -> str:
    """A 95 % interval in percent."""
    return f"{_near_the_ends(low)}–{_near_the_ends(high)}"


def _near_the_ends(share: float) -> str:
    return tenths(share) if 0 < share < 0.01 or 0.99 <= share < 1 else f"{100 * share:.0f}"


def number(value: float | None, *, digits: int = 3, zeros: bool = False) -> str:
    """Significant digits, without an exponent where a reader does not need one; `zeros` keeps them at the end."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:#.{digits}g}".rstrip(".") if zeros else f"{value:.{digits}g}"
        return counted(round(value)) if "e" in text else text
    return f"{value:.{digits - 1}e}"


def counted(value: int) -> str:
    """A count with a narrow space between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def several(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}" + ("s" if count != 1 else "")


def capital(text: str) -> str:
    """The text as a sentence begins."""
    return text[:1].upper() + text[1:]


def plain(name: str) -> str:
    """A set's or a term's name as words."""
    return name.replace("_", " ")


def listed(words: Sequence[str], *, most: int = 4) -> str:
    """Words with commas and a last "and"; what is beyond `most` is counted."""
    words = list(words)
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def duration(seconds: float | None) -> str:
    """Seconds below two minutes, minutes above."""
    if seconds is None:
        return "–"
    return f"{seconds:.0f}{NBSP}s" if seconds < 120 else f"{seconds / 60:.1f}{NBSP}min"
