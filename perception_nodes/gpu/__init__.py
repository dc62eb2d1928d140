"""NVIDIA GPUs: the CUDA driver, our kernels, preprocessing and decoding on the device, TensorRT."""
