"""Surroundings: what a middleware found around an event, kept apart from what the caller gave; and addresses."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Final, Literal

Ip = Literal["full", "truncated", "off"]
Address = IPv4Address | IPv6Address

GIVEN: Final = b" "
"""Stands after the JSON of a source address, request id or user agent that the caller gave.

JSON allows a space there, so no reader of an event's bytes notices it. Without it the value was found by a middleware.
"""

FOUND: Final = "found"
"""The key of the names of fields that were found, in an event or a context that goes to another process."""
MARKABLE: Final = ("source_ip", "request_id", "user_agent")

_with_port = re.compile(r"\[(?P<v6>[^\]]+)\](?::\d+)?|(?P<v4>\d+\.\d+\.\d+\.\d+):\d+").fullmatch
_PREFIX_BITS: Final = {4: 24, 6: 48}


class Found(str):
    """A value that a middleware found, and that no caller gave."""

    __slots__ = ()


def found(value: str | None) -> Found | None:
    """Return the value marked as found by a middleware; None where there is none."""
    return None if value is None else Found(value)


def parse_address(text: str | None) -> Address | None:
    """Return the address in ``1.2.3.4``, ``1.2.3.4:80``, ``::1``, ``[::1]:80``; None where there is none."""
    text = (text or "").strip()
    match = _with_port(text)
    if match is not None:
        text = match["v6"] or match["v4"]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=4096)
def truncated(text: str) -> str:
    """Return an address with its last 8 bits (IPv6: 80 bits) cleared; what is no address as it is."""
    address = parse_address(text)
    if address is None:
        return text
    return str(ip_network((address, _PREFIX_BITS[address.version]), strict=False).network_address)


@lru_cache(maxsize=4096)
def is_inet(text: str) -> bool:
    """Return whether PostgreSQL's type inet takes this text: an address, or one with the length of its network."""
    _, slash, length = text.partition("/")
    if "%" in text or (slash and not length.isdigit()):
        return False
    try:
        ip_interface(text)
    except ValueError:
        return False
    return True
