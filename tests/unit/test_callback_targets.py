"""Where a callback may go: as it is written, and as it is connected to."""

from typing import Any

import pytest

from integrations import callback_targets

PRIVATE = (
    "127.0.0.1",
    "127.8.9.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # the metadata of clouds
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a00:1::",
)
PUBLIC = ("8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")


@pytest.fixture(autouse=True)
def set_up(settings: Any) -> Any:
    settings.CALLBACK_SECRETS = ["s"]
    return settings


@pytest.mark.parametrize("address", PRIVATE)
def test_no_connection_is_made_to_an_address_that_is_not_public(address: str) -> None:
    assert not callback_targets.guard("https://example.org/")(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_called(address: str) -> None:
    assert callback_targets.guard("https://example.org/")(address)


def test_the_operator_may_list_hosts_and_networks(set_up: Any) -> None:
    set_up.CALLBACK_ALLOWED_HOSTS = ["hooks.internal"]
    set_up.CALLBACK_ALLOWED_NETWORKS = ["10.1.0.0/16", "fd00::/8"]
    assert callback_targets.guard("https://HOOKS.internal/x")("192.168.1.1")
    assert not callback_targets.guard("https://other.internal/")("192.168.1.1")
    assert callback_targets.guard("https://other.internal/")("10.1.2.3")
    assert not callback_targets.guard("https://other.internal/")("10.2.2.3")
    assert callback_targets.guard("https://other.internal/")("fd00::7")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("https://example.org/hook?token=1", ""),
        ("https://example.org:8443/", ""),
        ("https://[2606:4700:4700::1111]/", ""),
        ("http://example.org/", "Must begin with https://."),
        ("ftp://example.org/", "Must begin with https://."),
        ("//example.org/", "Must begin with https://."),
        ("", "Must be a URL"),
        (7, "Must be a URL"),
        (None, "Must be a URL"),
        ("https://" + "a" * 2048, "Must be a URL of at most"),
        ("https:///path", "Must have a host"),
        ("https://user:pw@example.org/", "Must have a host"),
        ("https://example.org/#part", "Must have a host"),
        ("https://example.org:port/", "valid URL"),
        ("https://[::1/", "valid URL"),
        ("https://exämple.org/", "beyond ASCII"),
        ("https://example.org/\r\nX: y", "Must be a URL without"),
        ("https://example.org\\@10.0.0.1/", "Must be a URL without"),
        ("https://127.0.0.1/", "not a public one"),
        ("https://[::ffff:10.0.0.1]/", "not a public one"),
    ],
)
def test_an_address_is_judged_as_it_is_written(value: object, why: str) -> None:
    found = callback_targets.why_not(value)
    assert why in found
    assert bool(why) == bool(found)


def test_without_a_secret_nothing_is_called_back(set_up: Any) -> None:
    set_up.CALLBACK_SECRETS = []
    assert "not set up" in callback_targets.why_not("https://example.org/")
