"""Blocks of an integer network as HLS C++, by hls4ml and our own kernels."""
