"""First-party sinks, found through the entry-point group `jetsocket_ingest.sinks` like anyone else's."""
