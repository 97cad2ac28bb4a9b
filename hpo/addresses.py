"""Addresses of servers and databases, with their passwords hidden: nothing that is shown or stored may have one."""

import re

SECRETS = "password|passwd|pwd|passphrase|sslpassword|secret|token|access_token|api_key|apikey"
# A port is no password, and no password reaches into the next address.
_USER_INFO = r"(\w[\w+.\-]*://[^\s/?#:@\[]*):(?!\d+(?:[/?#\s]|$))(?:(?!\w://){any})*@"
_IN_ADDRESS = re.compile(_USER_INFO.format(any="."), re.DOTALL)
_IN_TEXT = re.compile(_USER_INFO.format(any=r"\S"))
_PARAMETER = re.compile(rf"([?&;](?:{SECRETS})=)[^&;#\s'\")]+", re.IGNORECASE)


def masked(url: str) -> str:
    """The address with `***` for the password of its user and for the values of parameters such as `?password=`."""
    return _PARAMETER.sub(r"\1***", _IN_ADDRESS.sub(r"\1:***@", url))


def hide_passwords(text: str) -> str:
    """The text with every address in it `masked`."""
    return _PARAMETER.sub(r"\1***", _IN_TEXT.sub(r"\1:***@", text))
