"""What the contract suite cannot bring about from outside."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from jetsocket_ingest.errors import DialError
from jetsocket_ingest.net.connection import Connection
from jetsocket_ingest.net.frames import FrameReader
from jetsocket_ingest.net.transport import DialOptions
from jetsocket_ingest.testing.transport_cases.peers import Heard
from tests.support.aio import run


def test_a_dial_given_up_after_its_handshake_failed_leaves_no_forgotten_error() -> None:
    async def give_up() -> list[dict[str, Any]]:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        connection = Connection("websockets", DialOptions("ws://localhost/"), Heard(), FrameReader)
        connection.accepted.set_exception(DialError("refused before anybody waited for it"))
        connection.discard()
        del connection
        gc.collect()
        return reported

    assert run(give_up()) == []
