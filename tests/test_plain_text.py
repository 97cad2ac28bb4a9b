"""Hostile text, shown where it means something: each place is asked what it makes of it."""

import io
import subprocess

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from hpo.plain_text import code_fence, markdown, markdown_cell, markdown_code, markup, printable, shell_word

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "](javascript:alert(1))",
    "[a](javascript:alert(1))",
    "![a](http://example.org/a.png)",
    "<http://example.org>",
    "a | b",
    "a \\| b",
    "back\\",
    "`code` ``more``",
    "``` \n fence",
    "**bold** _slanted_ __init__ ~~struck~~",
    "&lt;b&gt; &amp; &#60;",
    "$x^2$",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "12) item",
    "> quote",
    "---",
    "===",
    "a\n\n# b\n\n- c\n",
    "[ref]: http://example.org",
    "    indented",
    "[bold red]a[/]",
    "[link=http://example.org]a[/link]",
    "a\\[/]",
    "\x1b[31mred\x1b[0m \x1b]8;;http://example.org\x07link",
    "\x9b31m \x07 \x08 \r over \x00",
    "\u202eback\u2066wards\u2028line",
    "é 日本 \u200c \U0001f600 👨‍👩‍👧",
    "\ud800",
    'it\'s $(touch /tmp/x) `id` "q" ; &&',
]


def shown(text: str) -> str:
    """As a reader sees it: white space collapsed, control characters spelt out."""
    return printable(" ".join(text.split()))


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_every_character_and_obeys_none(text: str) -> None:
    for page, tag in ((markdown(text), "p"), (f"- {markdown(text)}", "li"), (f"Named: {markdown_cell(text)}", "p")):
        html = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(page)
        (inline,) = (
            token for token in MarkdownIt("gfm-like", {"linkify": False}).parse(page) if token.type == "inline"
        )
        assert {child.type for child in inline.children or []} <= {"text", "text_special"}, html
        told = "".join(child.content for child in inline.children or [])
        assert told == ("Named: " if page.startswith("Named") else "") + shown(text)
        assert f"<{tag}>" in html


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_is_one_cell(text: str) -> None:
    page = f"| a | b |\n| --- | --- |\n| {markdown_cell(text)} | 1 |"
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page)
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4 and cells[3].content == "1"
    assert "".join(child.content for child in cells[2].children or []) == shown(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_code_is_code_to_its_end(text: str) -> None:
    (inline,) = (token for token in MarkdownIt().parse(f"a {markdown_code(text)} b") if token.type == "inline")
    children = inline.children or []
    assert [child.type for child in children] == ["text", "code_inline", "text"]
    assert children[1].content == shown(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_block_of_code_holds_all_of_it(text: str) -> None:
    fence = code_fence(text)
    (block,) = MarkdownIt().parse(f"{fence}sh\n{printable(text)}\n{fence}")
    assert block.type == "fence"


@pytest.mark.parametrize("text", HOSTILE)
def test_rich_shows_it_as_it_stands(text: str) -> None:
    stream = io.StringIO()
    Console(file=stream, width=200, force_terminal=True, color_system=None, highlight=False).print(
        f"[bold]{markup(text)}[/]", soft_wrap=True
    )
    assert "\x1b]" not in stream.getvalue() and "\x1b[3" not in stream.getvalue()
    plain = stream.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").removesuffix("\n")
    assert plain == printable(text)
    assert not set(plain) & set("\x00\x07\x08\r\x1b\x9b\u2028\u202e\u2066")
    plain.encode()


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\0" not in text and "\ud800" not in text])
def test_a_shell_reads_the_same_word(text: str) -> None:
    word = shell_word(text)
    assert not set(word) & set("\n\x07\x08\r\x1b\x9b\u2028\u202e\u2066")
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout.decode() == text


def test_what_needs_no_care_is_left_alone() -> None:
    text = "learning_rate of 0.5e-3, 20% of 3 rows (a-b): fine!"
    assert printable(text) == markdown(text) == markdown_cell(text) == text
    assert markdown("2.13.0") == "2.13.0"
    assert markdown_code("./a b.csv") == "`./a b.csv`"
    assert shell_word("mlruns/a") == "mlruns/a" and shell_word("my runs") == "'my runs'"
    assert printable("a\n\tb") == "a\n\tb"
