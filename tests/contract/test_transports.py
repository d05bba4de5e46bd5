"""Both engines keep the transport contract; on uvloop, the part of it that an event loop can break."""

from __future__ import annotations

import pytest
import uvloop

pytest.register_assert_rewrite("jetsocket_ingest.testing.transport_cases")

from jetsocket_ingest.net.engines import dial_for  # noqa: E402  (assertions must be made to explain themselves first)
from jetsocket_ingest.net.transport import Dial  # noqa: E402
from jetsocket_ingest.testing.transport_cases.flow import FlowScenarios  # noqa: E402
from jetsocket_ingest.testing.transport_cases.messages import MessageScenarios  # noqa: E402
from jetsocket_ingest.testing.transport_cases.openings import CancellationScenarios  # noqa: E402
from jetsocket_ingest.testing.transport_cases.peers import Scenarios  # noqa: E402
from jetsocket_ingest.testing.transport_cases.proxies import ProxyScenarios  # noqa: E402
from jetsocket_ingest.testing.transport_cases.redirects import RedirectScenarios  # noqa: E402
from jetsocket_ingest.testing.transport_cases.tls import TlsScenarios  # noqa: E402
from jetsocket_ingest.testing.transport_contract import TransportContract  # noqa: E402


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
