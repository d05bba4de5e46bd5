"""Connections: engines, the life of a WebSocket, and the pool that leases them."""
