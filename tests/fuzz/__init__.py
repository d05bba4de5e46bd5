"""Hostile bytes: mutated frames and handshakes through both engines."""
