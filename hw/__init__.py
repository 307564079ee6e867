"""Accelerator: configuration, instruction set, compiler and RTL."""
