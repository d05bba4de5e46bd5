"""Streams to connections, under the limits of provider and pool."""
