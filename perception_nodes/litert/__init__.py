"""Integer networks as full-integer LiteRT (TFLite) files, for TPUs and NPUs."""

DELEGATE = "PERCEPTION_DELEGATE"
"""The environment variable that names what runs a file instead of the CPU."""
