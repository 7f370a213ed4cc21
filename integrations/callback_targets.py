"""Where a callback may go. What a client names is an address that this server will connect to: inside the network it
stands in there is much that only trusts its neighbours.

Judged twice: the address as it is written, when the work is submitted; and the IP address that is really connected to,
at each attempt, so that a name which means something else by then is of no use.
"""

import ipaddress
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LONGEST: Final = 2048
# NAT64 (RFC 6052): the last four bytes are the IPv4 address that is meant.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def why_not(value: object) -> str:
    """Why this is no address to call back, or "" if it is one."""
    if not settings.CALLBACK_SECRETS:
        return "Callbacks are not set up here: CALLBACK_SECRET is missing."
    if type(value) is not str or not 0 < len(value) <= LONGEST:
        return f"Must be a URL of at most {LONGEST} characters."
    if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        return "Must be a URL without spaces, backslashes or characters beyond ASCII."
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "Must be a valid URL."
    if parts.scheme != "https" and not (parts.scheme == "http" and settings.CALLBACK_ALLOW_HTTP):
        return "Must begin with https://."
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        return "Must have a host, and neither a user nor a fragment."
    return "" if _may_be_named(host) else "This address is not allowed: it is not a public one."


def guard(url: str) -> Callable[[str], bool]:
    """Return what says of an IP address whether a connection to it may be made on behalf of `url`."""
    return partial(_may_connect, (urlsplit(url).hostname or "").lower())


def _may_be_named(host: str) -> bool:
    """Refuse at once what is plain to see; what a name means shows when it is connected to."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return _may_connect(host.lower(), host)


def _may_connect(host: str, address: str) -> bool:
    if host in {listed.lower() for listed in settings.CALLBACK_ALLOWED_HOSTS}:
        return True
    ip = _meant(ipaddress.ip_address(address.partition("%")[0]))
    networks = [ipaddress.ip_network(listed) for listed in settings.CALLBACK_ALLOWED_NETWORKS]
    return any(ip in network for network in networks) or (ip.is_global and not ip.is_multicast)


def _meant(ip: Address) -> Address:
    """The IPv4 address inside an IPv6 one that only carries it."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)
