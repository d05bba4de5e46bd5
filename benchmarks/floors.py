"""The floor: the least that native parts can do the same work with, and nothing around it.

    python -m benchmarks.floors receive|file|kafka PORT MESSAGES [TARGET]

Prints the messages seen. `receive` drops them, `file` writes each read's messages as lines, `kafka` produces each to a
topic with a delivery report, through librdkafka.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import picows
import uvloop


class Receive(picows.WSListener):
    """Takes the payload of every message, and lets go of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.payloads: list[bytes] = []

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type is not picows.WSMsgType.TEXT:
            self.hand_over()  # the close frame
            transport.disconnect()
            return
        self.payloads.append(frame.get_payload_as_bytes())
        if frame.last_in_buffer:
            self.hand_over()

    def hand_over(self) -> None:
        self.seen += len(self.payloads)
        self.take(self.payloads)
        self.payloads = []

    def take(self, payloads: list[bytes]) -> None:
        pass


class File(Receive):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)

    def take(self, payloads: list[bytes]) -> None:
        os.write(self.file, b"\n".join(payloads) + b"\n")


class Kafka(Receive):
    def __init__(self, target: str) -> None:
        super().__init__()
        from confluent_kafka import Producer

        servers, self.topic = target.split("/")
        self.producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "queue.buffering.max.messages": 200_000,
            }
        )
        self.delivered = 0

    def take(self, payloads: list[bytes]) -> None:
        produce, topic, report = self.producer.produce, self.topic, self.report
        for payload in payloads:
            while True:
                try:
                    produce(topic, payload, on_delivery=report)
                    break
                except BufferError:
                    self.producer.poll(0.01)
        self.producer.poll(0)

    def report(self, error: Any, _: Any) -> None:
        assert error is None, error
        self.delivered += 1

    def finish(self) -> None:
        self.producer.flush()
        assert self.delivered == self.seen, (self.delivered, self.seen)


async def main(kind: str, port: int, wanted: int, target: str) -> None:
    listener: Receive
    match kind:
        case "file":
            listener = File(target)
        case "kafka":
            listener = Kafka(target)
        case _:
            listener = Receive()
    transport, _ = await picows.ws_connect(lambda: listener, f"ws://127.0.0.1:{port}/{wanted}")
    await transport.wait_disconnected()
    if isinstance(listener, Kafka):
        listener.finish()
    print(listener.seen)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), (sys.argv[4:] or [""])[0]))
