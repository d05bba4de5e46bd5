"""Scenarios: TLS, with certificates made for the occasion."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from jetsocket_ingest.testing.transport_cases.openings import Dialling
from jetsocket_ingest.testing.transport_cases.peers import (
    TEXT,
    Certificates,
    Heard,
    RawPeer,
    frame,
    raw_server,
    scenario,
)


class TlsScenarios(Dialling):
    """wss://, and what goes wrong with it."""

    async def _over_tls(self, server: ssl.SSLContext, heard: Heard, **options: Any) -> None:
        async def script(peer: RawPeer) -> None:
            peer.accept(glued=frame(TEXT, b"secret"))
            peer.send(*[frame(TEXT, b"x" * 1000)] * 1000)

        async with raw_server(script, ssl=server) as port:
            transport = await self.connect(port, heard, scheme="wss", **{"host": "localhost"} | options)
            assert (await heard.until_count(1001))[0] == b"secret"
            await self.end(transport, heard)

    @scenario
    async def test_messages_over_tls_by_url_host_or_by_server_name(self) -> None:
        certificates = Certificates()
        server = certificates.server(certificates.good)
        await self._over_tls(server, Heard(), tls=certificates.trusting())
        await self._over_tls(
            server, Heard(), tls=certificates.trusting(), host="127.0.0.1", server_name="localhost"
        )

    @scenario
    async def test_a_client_certificate_is_presented(self) -> None:
        certificates = Certificates()
        client = certificates.trusting()
        certificates.client.configure_cert(client)
        await self._over_tls(certificates.server(certificates.good, ask_client=True), Heard(), tls=client)

    @scenario
    async def test_certificates_that_do_not_verify_are_fatal_and_told_in_words(self) -> None:
        certificates = Certificates()
        trusting = certificates.trusting()
        good = certificates.server(certificates.good)
        for server, host, tls, words in (
            (good, "127.0.0.1", trusting, "another address"),
            (good, "localhost", None, "unknown"),
            (certificates.server(certificates.expired), "localhost", trusting, "expired"),
        ):

            async def script(peer: RawPeer) -> None:
                peer.accept()

            async with raw_server(script, ssl=server) as port:
                error = await self.dial_fails(f"wss://{host}:{port}/?hidden", tls=tls)
                assert error.fatal, str(error)
                assert words in str(error), str(error)
        async with raw_server(script, ssl=good) as port:
            error = await self.dial_fails(
                f"wss://localhost:{port}/?hidden", tls=trusting, server_name="other.example"
            )
            assert "another host name" in str(error)

    @scenario
    async def test_a_missing_client_certificate_is_fatal_and_told_in_words(self) -> None:
        certificates = Certificates()
        server = certificates.server(certificates.good, ask_client=True)

        def refuse(listening: socket.socket) -> None:
            # A blocking server: one of asyncio drops the connection before its alert is written.
            accepted, _ = listening.accept()
            with server.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as secured:
                try:
                    secured.do_handshake()
                except ssl.SSLError:
                    secured.shutdown(socket.SHUT_WR)
                    secured.recv(1 << 16)

        with socket.create_server(("127.0.0.1", 0)) as listening:
            refusing = asyncio.get_running_loop().run_in_executor(None, refuse, listening)
            url = f"wss://localhost:{listening.getsockname()[1]}/?hidden"
            error = await self.dial_fails(url, tls=certificates.trusting())
            await refusing
        assert error.fatal, str(error)
        assert "client certificate" in str(error), str(error)

    @scenario
    async def test_tls_to_a_peer_without_it_and_the_other_way_round(self) -> None:
        certificates = Certificates()

        async def script(peer: RawPeer) -> None:
            peer.accept()

        async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        plain = await asyncio.start_server(http, "127.0.0.1", 0)
        port = plain.sockets[0].getsockname()[1]
        error = await self.dial_fails(f"wss://127.0.0.1:{port}/?hidden", tls=certificates.trusting())
        assert "does not speak TLS" in str(error)
        plain.close()
        await plain.wait_closed()
        async with raw_server(script, ssl=certificates.server(certificates.good)) as port:
            await self.dial_fails(f"ws://127.0.0.1:{port}/?hidden")
