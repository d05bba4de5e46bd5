"""Connections and their pool against a simulated network, in virtual time, one seed a world.

`python -m tests.simulation --seeds 2000` runs a campaign, `--seed N` replays one world and prints its history.
"""
