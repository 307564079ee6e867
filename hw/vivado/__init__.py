"""Vivado: a project that builds the ZCU102 overlay; the Tcl scripts read what Python writes into settings.tcl."""
