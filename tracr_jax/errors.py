"""The one exception a user is meant to read: a single clear line, shown by the CLI without a traceback."""


class UserError(ValueError):
    """Something the user can change: says what is wrong, where, the numbers, and what to do about it."""
