"""What the configurations of all families share: checks of the values that a config.json holds."""

import dataclasses
from typing import Any

from tracr_jax.errors import UserError

# Far beyond any model: what is larger is damage.
_LARGEST, _DEEPEST, _NUMBER = 1 << 24, 10_000, 1e9


def check_sizes(config: Any, *, blocks: str) -> None:
    """Sizes are whole numbers from 1 on, other numbers finite and positive, switches true or false.

    Raises:
      UserError: the first field that is not.
    """
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(f.default, bool):
            if not isinstance(value, bool):
                raise UserError(f"{f.name} must be true or false, got {value!r:.60}")
        elif isinstance(f.default, float):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _NUMBER:
                raise UserError(f"{f.name} must be a number above 0 and at most {_NUMBER:g}, got {value!r:.60}")
        elif value is not None or f.default is not None:
            check_size(f.name, value, largest=_DEEPEST if f.name == blocks else _LARGEST)


def check_size(name: str, value: Any, *, largest: int = _LARGEST) -> None:
    """One size of a model, see `check_sizes`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise UserError(f"{name} must be a whole number from 1 to {largest}, got {value!r:.60}")
