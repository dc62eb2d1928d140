"""TensorRT and TensorRT-RTX: engines built, kept and run."""
