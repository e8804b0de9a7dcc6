"""Where a device is reached and which Python runs there: texts that become arguments of `ssh`, so each is checked."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ZONE = re.compile(r"[A-Za-z0-9_.-]+")
_PYTHON = re.compile(r"[A-Za-z0-9_./+~][A-Za-z0-9_./+~-]*")
_MEANT = (
    "[user@]host[:port] is meant, such as nvidia@10.0.0.7, board:2222, a Host of ~/.ssh/config, or root@[fe80::1]:22"
)


@dataclass(frozen=True)
class Address:
    """A machine that `ssh` reaches; what is None is left to ~/.ssh/config.

    Args:
        host: a name, an alias of ~/.ssh/config, or an IP address (IPv6 without its brackets).
    """

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


def parse(text: str) -> Address:
    """Return the address in a text such as `nvidia@10.0.0.7:22`.

    Raises:
        ValueError: it is none; nothing that ssh or a shell could take for anything else gets through.
    """
    user, at, rest = text.rpartition("@")
    if at and not _USER.fullmatch(user):
        raise ValueError(f"{text!r} is no address: the user {user!r} may hold letters, digits and _ . + -; {_MEANT}")
    if rest.startswith("["):
        host, closed, tail = rest[1:].partition("]")
        if not closed or not _is_ipv6(host):
            raise ValueError(f"{text!r} is no address: {host!r} in brackets is no IPv6 address; {_MEANT}")
    else:
        host, colon, number = rest.partition(":")
        tail = colon + number
        if _is_ipv6(rest):
            raise ValueError(f"{text!r} is no address: an IPv6 address stands in brackets; {_MEANT}")
        if not _HOST.fullmatch(host):
            raise ValueError(f"{text!r} is no address: the host {host!r} may hold letters, digits and _ . -; {_MEANT}")
    return Address(host, user or None, _port(text, tail))


def interpreter(name: str) -> str:
    """Return the name or path of a Python interpreter, checked.

    Raises:
        ValueError: it holds what a shell could take for anything else.
    """
    if not _PYTHON.fullmatch(name):
        raise ValueError(
            f"{name!r} is no interpreter: letters, digits and _ . / + ~ - are meant, such as python3.10, "
            "/usr/bin/python3 or ~/measure/bin/python"
        )
    return name


def _port(text: str, tail: str) -> int | None:
    """Return the port in what follows a host: nothing, or a colon and a number."""
    if not tail:
        return None
    if not re.fullmatch(r":[0-9]{1,5}", tail) or not 1 <= int(tail[1:]) <= 65535:
        raise ValueError(f"{text!r} is no address: a port is a number from 1 to 65535; {_MEANT}")
    return int(tail[1:])


def _is_ipv6(host: str) -> bool:
    """Return whether this is an IPv6 address, perhaps with the interface of a link-local one (fe80::1%eth0)."""
    number, percent, zone = host.partition("%")
    if percent and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.IPv6Address(number)
    except ValueError:
        return False
    return True
