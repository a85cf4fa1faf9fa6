"""The tables of E-SAM's paper."""
