"""Conformance of the WebSocket engines, as judged by the Autobahn test suite (`make autobahn`)."""
