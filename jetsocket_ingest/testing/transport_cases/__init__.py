"""The parts of the transport contract suite; `jetsocket_ingest.testing.transport_contract` puts them together."""
