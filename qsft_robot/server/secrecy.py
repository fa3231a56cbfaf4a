"""Whether a token would be seen on its way to an address."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

# Schemes whose messages anyone on the way reads.
_CLEAR = ("ws", "http")


def is_loopback(address: str) -> bool:
    """Whether an IP address is reached from this machine alone."""
    return ipaddress.ip_address(address).is_loopback


def on_this_machine(url: str) -> bool:
    """Whether the address is a loopback one, as far as its words tell."""
    host = urlsplit(url).hostname or ""
    try:
        return is_loopback(host)
    except ValueError:
        return host == "localhost"


def check_token(url: str, token: str | None, where: str, mend: str) -> None:
    """ValueError where the token, or a password in the address, would cross the network in clear
    text; it begins with `where` and ends with what to do, `mend`."""
    parts = urlsplit(url)
    secret = token is not None or parts.password is not None
    if secret and parts.scheme in _CLEAR and not on_this_machine(url):
        raise ValueError(f"{where}: the token would cross the network in clear text; {mend}")
