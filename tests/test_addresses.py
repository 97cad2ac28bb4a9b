"""No password of an address is ever shown, and nothing else of it is hidden."""

import pytest

from hpo.addresses import hide_passwords, masked

ADDRESSES = [
    ("http://user:secret@host:5000/path", "http://user:***@host:5000/path"),
    ("postgresql+psycopg2://user:secret@host/db", "postgresql+psycopg2://user:***@host/db"),
    ("https://:secret@host", "https://:***@host"),
    ("http://user:@host", "http://user:***@host"),
    ("http://user:p%40ss%2Fw@host/", "http://user:***@host/"),
    ("http://user:p@ss@host/", "http://user:***@host/"),
    ("mysql://user:pa/ss?w#rd@host/db", "mysql://user:***@host/db"),
    ("http://user:12ab@host", "http://user:***@host"),
    ("http://user:1234@host", "http://user:***@host"),
    ("http://user:secret@[2001:db8::1]:5000/a", "http://user:***@[2001:db8::1]:5000/a"),
    ("http://u:secret@host/?password=hush&x=1", "http://u:***@host/?password=***&x=1"),
    ("postgresql://host/db?user=me&password=hush", "postgresql://host/db?user=me&password=***"),
    ("https://host/?TOKEN=hush#part", "https://host/?TOKEN=***#part"),
]
HARMLESS = [
    "http://user@host/path",
    "http://host:5000",
    "http://host:5000/find?mail=me@host",
    "http://[::1]:5000/a@b",
    "sqlite:////tmp/a:b@c/mlflow.db",
    "sqlite:///relative.db?timeout=60",
    "databricks://profile",
    "a time, 10:30, a name@host and no address",
]


@pytest.mark.parametrize(("address", "shown"), ADDRESSES)
def test_a_password_is_hidden(address: str, shown: str) -> None:
    assert masked(address) == shown
    assert masked(shown) == shown
    assert hide_passwords(f"trying {address} failed: '{address}' again") == f"trying {shown} failed: '{shown}' again"


@pytest.mark.parametrize("address", HARMLESS)
def test_what_is_no_password_stays(address: str) -> None:
    assert masked(address) == address
    assert hide_passwords(f"see {address}, or {address}\n") == f"see {address}, or {address}\n"


def test_a_password_with_spaces_is_hidden_where_the_address_is_known() -> None:
    assert masked("http://user:one two@host") == "http://user:***@host"


def test_every_address_of_a_text_is_masked_and_what_is_between_them_stays() -> None:
    text = "API request to http://a:one@x/api,postgresql://b:two@y/d failed\nat http://c:three@z (me@home, 12:30)"
    assert hide_passwords(text) == (
        "API request to http://a:***@x/api,postgresql://b:***@y/d failed\nat http://c:***@z (me@home, 12:30)"
    )
