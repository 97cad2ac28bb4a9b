"""Text from data, files and users, made plain for where it is shown: a terminal, rich's markup, Markdown, a shell.

Nothing in it may move the cursor, become a tag, a link or a border of a table, or another command.
"""

import re
import shlex

# What a terminal acts on, and what changes the order of the characters around it; a line and a tab stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# `_` within a word is none of emphasis. `$` begins a formula where GitHub shows the page, `~` a strike.
_MARKDOWN = re.compile(r"[\\`*\[\]<&|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Where a line would begin as a heading, a list, a quote or a rule.
_BLOCK = re.compile(r"^(?:\d{1,9}(?=[.)](?:\s|$))|(?=[#+\-=>]))")


def printable(text: str) -> str:
    """With control characters spelt out (`\\x1b`), so that a terminal shows them instead of obeying."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def markup(text: str) -> str:
    """For rich, which takes `[bold]` for a style."""
    from rich.markup import escape  # only what shows something on a terminal needs it

    return escape(printable(text))


def markdown_cell(text: str) -> str:
    """One line of Markdown in which nothing means more than itself, within a line or a table."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(" ".join(text.split())))


def markdown(text: str) -> str:
    """The same where a line begins."""
    return _BLOCK.sub(r"\g<0>\\", markdown_cell(text))


def markdown_code(text: str) -> str:
    """A code span, whatever backticks are in the text."""
    line = printable(" ".join(text.split()))
    fence = "`" * (1 + _longest_backticks(line))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def code_fence(text: str) -> str:
    """The fence of a block that holds these lines."""
    return "`" * max(3, 1 + _longest_backticks(text))


def shell_word(text: str) -> str:
    """Quoted for a shell; in `$'...'` what would otherwise be obeyed by the terminal that it is pasted into."""
    if not _CONTROL.search(text) and "\n" not in text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + re.sub(r"[^ -~]", _octal_bytes, escaped) + "'"


def _octal_bytes(found: re.Match[str]) -> str:
    return "".join(f"\\{byte:03o}" for byte in found[0].encode("utf-8", "surrogateescape"))


def _longest_backticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
