"""What the pinned suite holds: its groups of client cases, and the units that a run is resumed by."""

from __future__ import annotations

ENGINES = ("websockets", "picows")

GROUPS = {
    "1": ("Framing", 16),
    "2": ("Pings and pongs", 11),
    "3": ("Reserved bits", 7),
    "4": ("Opcodes", 10),
    "5": ("Fragmentation", 20),
    "6": ("UTF-8", 145),
    "7": ("Closing", 37),
    "9": ("Limits and performance", 54),
    "10": ("Automatic fragmentation", 1),
    "12": ("Compression, different payloads", 90),
    "13": ("Compression, different parameters", 126),
}
"""Group to its subject and number of cases. There is no group 8 and no group 11."""

_HEAVY = {"9": 8, "12": 5, "13": 7}
"""Groups with minutes of work, and how many subgroups they have."""


def units() -> list[str]:
    """What runs and is stored in one go: a group, or a subgroup of a heavy one."""
    return [
        unit
        for group in GROUPS
        for unit in (
            [f"{group}.{part}" for part in range(1, _HEAVY[group] + 1)] if group in _HEAVY else [group]
        )
    ]


def group_of(unit_or_case: str) -> str:
    return unit_or_case.partition(".")[0]
