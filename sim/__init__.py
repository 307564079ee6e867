"""Simulation: the ISA machine, Verilator builds and cocotb testbenches."""
