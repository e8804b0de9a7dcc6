"""Stand-ins for what no development machine has, NVIDIA's CUDA runtime and TensorRT; they measure nothing."""
