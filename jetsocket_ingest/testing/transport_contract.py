"""The contract that every transport engine keeps, as tests: subclass `TransportContract` and run it with pytest.

    class TestMyEngine(TransportContract):
        engine = "mine"

        def dial(self):
            return my_dial

Everything runs against real sockets on loopback. The TLS scenarios need `trustme`.
"""

from __future__ import annotations

from jetsocket_ingest.testing.transport_cases.compression import CompressionScenarios
from jetsocket_ingest.testing.transport_cases.flow import EndScenarios, FlowScenarios
from jetsocket_ingest.testing.transport_cases.messages import MessageScenarios, ViolationScenarios
from jetsocket_ingest.testing.transport_cases.openings import CancellationScenarios, HandshakeScenarios
from jetsocket_ingest.testing.transport_cases.proxies import ProxyScenarios
from jetsocket_ingest.testing.transport_cases.redirects import RedirectScenarios
from jetsocket_ingest.testing.transport_cases.tls import TlsScenarios


class TransportContract(
    MessageScenarios,
    ViolationScenarios,
    CompressionScenarios,
    FlowScenarios,
    EndScenarios,
    HandshakeScenarios,
    CancellationScenarios,
    TlsScenarios,
    ProxyScenarios,
    RedirectScenarios,
):
    """All scenarios. A subclass names its `engine` and gives its `dial`; `loop_factory` chooses the event loop."""


__all__ = ["TransportContract"]
