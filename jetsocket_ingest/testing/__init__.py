"""Shipped helpers for tests: the feed server, contract suites for sinks and transports, virtual time."""
