"""From a connection's messages to delivered batches: intake, buffer, delivery."""
