"""The environment variable that names a LiteRT delegate."""

DELEGATE = "PERCEPTION_DELEGATE"
"""Names the library that runs a full-integer LiteRT file instead of the CPU."""
