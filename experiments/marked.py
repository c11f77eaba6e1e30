"""Generated parts of Markdown pages, between <!-- NAME --> and <!-- /NAME -->; tests compare them."""

from pathlib import Path

from tracr_jax.errors import UserError
from tracr_jax.files import write_text


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def between(text: str, name: str) -> str | None:
    """What stands between the markers, without surrounding blank lines; None where they are absent."""
    start, end = _markers(name)
    if start not in text or end not in text.split(start, 1)[1]:
        return None
    return text.split(start, 1)[1].split(end, 1)[0].strip("\n")


def replace(path: Path, name: str, body: str) -> None:
    """Put `body` between the markers of a page; a UserError where they are absent."""
    text = path.read_text(encoding="utf-8")
    start, end = _markers(name)
    if between(text, name) is None:
        raise UserError(f"{path}: no table written, the lines {start} and {end} are not there; add them")
    head, rest = text.split(start, 1)
    body = body.strip("\n")
    write_text(path, f"{head}{start}\n{body}\n{end}{rest.split(end, 1)[1]}")
