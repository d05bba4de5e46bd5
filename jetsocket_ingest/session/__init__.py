"""The protocol spoken on a connection, without I/O: what to send, what came back, what is data."""
