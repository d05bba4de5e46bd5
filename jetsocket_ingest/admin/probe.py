"""The health check of a container: ask a page, exit 0 if it says yes. Standard library only, so that it is quick.

python -m jetsocket_ingest.admin.probe http://127.0.0.1:8686/livez
"""

from __future__ import annotations

import http.client
import sys
import urllib.error
import urllib.request
from typing import NoReturn

TIMEOUT = 3.0
"""Seconds; less than an orchestrator waits before it calls the check itself failed."""


def probe(url: str, timeout: float = TIMEOUT) -> int:
    """Exit code: 0 for an answer of status 200, 1 for any other answer or none, 2 for an address that is none.

    The reason for a 1 or 2 goes to standard error, on one line.
    """
    if not url.startswith(("http://", "https://")):
        return _say(2, f"expected an address such as http://127.0.0.1:8686/livez, found {url!r}")
    # Without a handler for proxies: what is asked for is this container, whatever HTTP_PROXY says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(url, timeout=timeout) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        with error:
            return _say(1, f"{url} answered {error.code}: {_words(error.read(2000))}")
    except (http.client.InvalidURL, ValueError) as error:
        return _say(2, f"{url!r} is not an address: {error}")
    except (http.client.HTTPException, OSError) as error:
        return _say(1, f"{url} does not answer: {getattr(error, 'reason', error)}")
    return 0 if status == 200 else _say(1, f"{url} answered {status}, expected 200")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The page itself is asked; whoever sends us elsewhere is not it."""

    def redirect_request(self, *_: object) -> None:
        return None


def _say(code: int, why: str) -> int:
    printable = "".join(char if char.isprintable() else "?" for char in why)
    sys.stderr.write(f"probe: {printable}\n")
    return code


def _words(body: bytes) -> str:
    return " ".join(body.decode("utf-8", "replace").split())


def main() -> NoReturn:
    if len(sys.argv) != 2:
        sys.exit(_say(2, "usage: python -m jetsocket_ingest.admin.probe URL"))
    sys.exit(probe(sys.argv[1]))


if __name__ == "__main__":
    main()
