"""Measurements: the program beside the floor of the machine, in one run."""
