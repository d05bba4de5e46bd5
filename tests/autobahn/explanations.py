"""Why a case is not OK: written by hand, and demanded of every such case."""

from __future__ import annotations

from tests.autobahn.verdicts import Oddity

FAIL_FAST = (
    "The suite sends a text message bit by bit, with bad UTF-8 before its end, and looks whether it is refused at that point "
    "or when it is complete. We look at complete messages, all those of a read in one pass, which is what makes text "
    "cheap. The message is refused with 1007 and never handed over; RFC 6455 (8.1) does not say when."
)
AFTER_CLOSE = (
    "Informational whatever a client does. The suite sends 256 KiB, a short message, a close frame and a ping in one go. "
    "Both messages are handed over and echoed, then the close frame is answered; the ping after it is ignored."
)
UNDEFINED_CODE = (
    "Informational whatever a client does. The suite closes with a code beyond those that RFC 6455 (7.4.2) knows: "
    "5000 and 65535. We take that as a violation and answer 1002."
)

_WHY = {
    ("6.4", "NON-STRICT", 1007): FAIL_FAST,
    ("7.1.6", "INFORMATIONAL", 1000): AFTER_CLOSE,
    ("7.13", "INFORMATIONAL", 1002): UNDEFINED_CODE,
}
"""Case or subgroup, verdict and close code, to the reason. It holds for both engines."""


def explain(oddity: Oddity) -> str | None:
    """The reason, None where nobody has written one."""
    subgroup = oddity.case.rpartition(".")[0]
    found = oddity.verdict, oddity.code
    return _WHY.get((oddity.case, *found)) or _WHY.get((subgroup, *found))  # type: ignore[arg-type]  # None is no key
