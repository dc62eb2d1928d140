"""Integer networks as full-integer LiteRT (TFLite) files, for TPUs and NPUs."""
