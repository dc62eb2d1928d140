"""What stops a compression run."""


class CompressionError(ValueError):
    """Something that a run cannot work with; one line that names it, its value and the remedy."""


class GateRefused(CompressionError):
    """The model costs more accuracy than the configuration allows, so it is not written."""
