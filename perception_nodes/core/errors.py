"""The errors whose text is for the user: one line with the thing, the value and the remedy."""


class PerceptionError(Exception):
    """What was asked for cannot be done with what was given, or on this machine."""


class InputError(PerceptionError):
    """One input cannot be used, such as a drive or its labels; the others still may be."""
