"""Both engines keep the transport contract; on uvloop, the part of it that an event loop can break."""

from __future__ import annotations

import uvloop

from jetsocket_ingest.net.engines import dial_for
from jetsocket_ingest.net.transport import Dial
from jetsocket_ingest.testing.transport_cases.flow import FlowScenarios
from jetsocket_ingest.testing.transport_cases.messages import MessageScenarios
from jetsocket_ingest.testing.transport_cases.openings import CancellationScenarios
from jetsocket_ingest.testing.transport_cases.peers import Scenarios
from jetsocket_ingest.testing.transport_cases.proxies import ProxyScenarios
from jetsocket_ingest.testing.transport_cases.redirects import RedirectScenarios
from jetsocket_ingest.testing.transport_cases.tls import TlsScenarios
from jetsocket_ingest.testing.transport_contract import TransportContract


class Websockets(Scenarios):
    engine = "websockets"

    def dial(self) -> Dial:
        return dial_for("websockets")


class Picows(Scenarios):
    engine = "picows"

    def dial(self) -> Dial:
        return dial_for("picows")


class OnUvloop(
    MessageScenarios, FlowScenarios, CancellationScenarios, TlsScenarios, ProxyScenarios, RedirectScenarios
):
    loop_factory = staticmethod(uvloop.new_event_loop)


class TestWebsockets(Websockets, TransportContract):
    pass


class TestPicows(Picows, TransportContract):
    pass


class TestWebsocketsOnUvloop(Websockets, OnUvloop):
    pass


class TestPicowsOnUvloop(Picows, OnUvloop):
    pass
