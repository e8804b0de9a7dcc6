"""What may be given to ssh, and what may not."""

from __future__ import annotations

import pytest

from edgekd.address import Address, interpreter, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.7", Address("10.0.0.7")),
        ("nvidia@10.0.0.7", Address("10.0.0.7", "nvidia")),
        ("nvidia@10.0.0.7:2222", Address("10.0.0.7", "nvidia", 2222)),
        ("board:1", Address("board", None, 1)),
        ("orin-nano_2.lab.example:65535", Address("orin-nano_2.lab.example", None, 65535)),
        ("first.last+ci@board", Address("board", "first.last+ci")),
        ("[::1]", Address("::1")),
        ("root@[fe80::1%eth0]:22", Address("fe80::1%eth0", "root", 22)),
    ],
)
def test_an_address_is_read_and_written_back(text: str, address: Address) -> None:
    assert parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the host '' may hold"),
        ("-oProxyCommand=sh", "the host '-oProxyCommand=sh' may hold"),
        ("user@-host", "the host '-host' may hold"),
        ("-luser@host", "the user '-luser' may hold"),
        ("a@b@host", "the user 'a@b' may hold"),
        ("@host", "the user '' may hold"),
        ("us er@host", "the user 'us er' may hold"),
        ("ho st", "the host 'ho st' may hold"),
        ("host\n", "the host 'host\\n' may hold"),
        ("host;reboot", "the host 'host;reboot' may hold"),
        ("$(id)@host", "the user '$(id)' may hold"),
        ("`id`", "the host '`id`' may hold"),
        ("host/path", "the host 'host/path' may hold"),
        ("hôst", "the host 'hôst' may hold"),
        ("%h", "the host '%h' may hold"),
        ("host:", "a port is a number from 1 to 65535"),
        ("host:0", "a port is a number from 1 to 65535"),
        ("host:65536", "a port is a number from 1 to 65535"),
        ("host:22 ", "a port is a number from 1 to 65535"),
        ("host:22\n", "a port is a number from 1 to 65535"),
        ("host:٢٢", "a port is a number from 1 to 65535"),
        ("host:+22", "a port is a number from 1 to 65535"),
        ("[::1]22", "a port is a number from 1 to 65535"),
        ("fe80::1", "an IPv6 address stands in brackets"),
        ("[::1", "'::1' in brackets is no IPv6 address"),
        ("[board]", "'board' in brackets is no IPv6 address"),
        ("[fe80::1%e;h]", "'fe80::1%e;h' in brackets is no IPv6 address"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_meant(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"\[user@\]host\[:port\] is meant") as refused:
        parse(text)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "name", ["python3", "/usr/bin/python3.8", "~/measure/bin/python", "python3.10+debug", "./py-3"]
)
def test_an_interpreter(name: str) -> None:
    assert interpreter(name) == name


@pytest.mark.parametrize("name", ["", "-c", "python3 -c", "python3;id", "$(id)", "py'thon", "python3\n", "a\\b", "*"])
def test_what_is_no_interpreter(name: str) -> None:
    with pytest.raises(ValueError, match="is no interpreter: letters, digits"):
        interpreter(name)
