"""Amaranth RTL of the accelerator, one unit per file."""
