"""A short text for tests that train: the bundled one takes seconds to tokenise."""

from pathlib import Path

SHORT_TEXT = Path(__file__).parent / "files" / "wikitext2_head.txt"
