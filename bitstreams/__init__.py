"""PYNQ overlay package: the driver and the bitstreams of the accelerator."""
