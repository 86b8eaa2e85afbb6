"""The one exception that a command turns into one line and a non-zero exit."""


class InputError(ValueError):
    """Something the user gave is wrong: the message says what, where, why and what to do."""
