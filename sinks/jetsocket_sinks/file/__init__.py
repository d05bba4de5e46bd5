"""Records in files: JSON lines, raw lines or length-prefixed payloads, compressed, rotated, never torn or overwritten."""

from jetsocket_sinks.file.options import FileOptions
from jetsocket_sinks.file.sink import FileSink

__all__ = ["FileOptions", "FileSink"]
