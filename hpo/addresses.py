"""Passwords in addresses of servers, kept out of everything that is shown or stored."""

import re

# Greedy up to the last @: a password may hold one that nobody encoded, and one character too many hides nothing needed.
_USER = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@'\"]*:)[^\s'\"<>]+(?=@)")
_QUERY = re.compile(r"(?P<before>[?&;][A-Za-z_]*passw(?:or)?d=)[^\s&#;'\"<>)]+", re.IGNORECASE)


def masked(url: str) -> str:
    """The address with `***` for its password, to be shown and stored."""
    return hide_passwords(url)


def hide_passwords(text: str) -> str:
    """Any text, with `***` for the password of every address in it: `scheme://user:secret@` and `?password=secret`."""
    return _QUERY.sub(r"\g<before>***", _USER.sub(r"\g<before>***", text))
