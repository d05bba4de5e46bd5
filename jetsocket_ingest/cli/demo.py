"""`jetsocket-ingest demo`: serve the embedded feed by itself, well or badly."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import UTC, datetime

import click

from jetsocket_ingest.config.types import parse_duration
from jetsocket_ingest.errors import ConfigError, OperatorError
from jetsocket_ingest.testing.feed import KINDS, FeedConnection, FeedOptions, FeedServer, schedule


class Seconds(click.ParamType[float]):
    """`10`, `0.5`, `10s` or `1m30s` → seconds."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        text = str(value)
        try:
            seconds = float(text) if text.replace(".", "", 1).isdecimal() else parse_duration(text)
        except ValueError:
            self.fail(
                f"expected seconds such as 10, or a duration such as 10s, 500ms or 1m30s, found {text!r}"
            )
        return float(str(seconds))


class Streams(click.ParamType["int | list[str]"]):
    """A number, or names with commas between."""

    name = "number or names"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | list[str]:
        text = str(value)
        return int(text) if text.isdecimal() else text.split(",")


_SECONDS = Seconds()
_FAULTS = "\n".join(
    f"  {name + (f':{kind.show(kind.value)}' if kind.value is not None else ''):<24}{kind.about}"
    for name, kind in KINDS.items()
)


@click.command(
    help="Serve a WebSocket feed that plays a market-like provider, until Ctrl-C.\n\n"
    "\b\nFaults, with the value that each takes if you give none:\n" + _FAULTS
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, help="Port to listen on; 0 takes any free one.")
@click.option("--rate", default=100.0, show_default=True, help="Messages a second, over all streams.")
@click.option(
    "--streams", type=Streams(), default="6", show_default=True, help="How many, or their names: A,B,C."
)
@click.option("--size", default=0, show_default=True, help="Bytes of a message, padded; 0 adds nothing.")
@click.option(
    "--heartbeat", type=_SECONDS, help="Send a heartbeat so often on each connection.  [default: never]"
)
@click.option("--limit", type=int, help="Messages of each stream, then it is quiet.  [default: no limit]")
@click.option(
    "--ack-delay", type=_SECONDS, default=0.0, show_default=True, help="Answer requests so much later."
)
@click.option("--token", help="Refuse clients without the header Authorization: Bearer TOKEN.")
@click.option(
    "--max-streams", type=int, help="Refuse more streams than this on one connection.  [default: no limit]"
)
@click.option("--seed", default=0, show_default=True, help="Prices, and whom faults strike, follow from it.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME[:VALUE]",
    help="Do this wrong, again and again or all the time; repeatable.",
)
@click.option(
    "--every",
    type=_SECONDS,
    multiple=True,
    help="How often: once for all faults that strike, or once for each.  [default: 10]",
)
@click.option("--duration", type=_SECONDS, help="Stop after this time.  [default: at Ctrl-C]")
def demo(
    host: str,
    port: int,
    rate: float,
    streams: int | list[str],
    size: int,
    heartbeat: float | None,
    limit: int | None,
    ack_delay: float,
    token: str | None,
    max_streams: int | None,
    seed: int,
    faults: tuple[str, ...],
    every: tuple[float, ...],
    duration: float | None,
) -> None:
    try:
        options = FeedOptions(
            streams=streams,
            rate=rate,
            size=size,
            host=host,
            port=port,
            heartbeat=heartbeat,
            seed=seed,
            limit=limit,
            ack_delay=ack_delay,
            require_token=token,
            max_streams_per_connection=max_streams,
            faults=schedule(faults, every),
        )
        asyncio.run(_serve(options, duration))
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"demo: {problem}", err=True)
        sys.exit(2)
    except OperatorError as error:
        click.echo(f"demo: {error}", err=True)
        sys.exit(1)


async def _serve(options: FeedOptions, duration: float | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    struck = 0

    def tell(fault: str, connection: FeedConnection) -> None:
        nonlocal struck
        struck += 1
        click.echo(f"{datetime.now(UTC):%H:%M:%S} fault {fault} on connection {connection.number}")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    feed = FeedServer(options, on_fault=tell)
    await feed.start()
    started = loop.time()
    try:
        click.echo(_introduction(feed))
        try:
            async with asyncio.timeout(duration):
                await stop.wait()
        except TimeoutError:
            pass  # --duration is over
    finally:
        served = loop.time() - started
        await feed.stop()
        click.echo(_summary(feed, served, struck))


def _introduction(feed: FeedServer) -> str:
    url, stream = feed.url, feed.streams[0]
    if feed.options.require_token:
        # The command below cannot send headers.
        hint = "Clients must send the header Authorization: Bearer, with the token given."
    else:
        hint = f"Try: python -m websockets {url}/ws/{stream}"
    return (
        f"Feed on {url}: {_count(len(feed.streams), 'stream')}, {feed.options.rate:,g} messages a second. Ctrl-C stops it.\n"
        f'  {url}/ws            send {{"op":"subscribe","id":1,"streams":["{stream}"]}}, get an ack, then messages\n'
        f"  {url}/ws/<stream>   that stream at once, without subscribing\n"
        f"  {url}/all           all streams at once\n"
        f"{hint}"
    )


def _summary(feed: FeedServer, seconds: float, struck: int) -> str:
    messages = sum(sent.count for sent in feed.sent.values())
    summary = (
        f"Served {_count(messages, 'message')} to {_count(feed.accepted, 'connection')} in {seconds:.1f} s"
    )
    if feed.skipped:
        summary += f", {feed.skipped:,} skipped for slow readers"
    if struck:
        summary += f", {_count(struck, 'fault')}"
    return summary + "."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
