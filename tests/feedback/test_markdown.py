"""Hostile Markdown comes out as harmless HTML: a fixed list of tags, links to the web and mail only."""

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.feedback.markdown import MAX_CODE, MAX_MARKDOWN, safe_html

TAGS = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "span", "a", "ul", "ol", "li", "blockquote"),
    *("h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "target", "rel", "title"}, "pre": {"class", "tabindex", "role", "aria-label"}}
ATTRIBUTES |= {"span": {"class"}, "td": {"class"}, "th": {"class"}, "ol": {"start"}, "code": {"class"}}


class Reader(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def check(html: str) -> Reader:
    """The HTML, once it is known to be harmless."""
    found = Reader(html)
    for tag, attributes in found.tags:
        assert tag in TAGS, tag
        assert set(attributes) <= ATTRIBUTES.get(tag, set()), (tag, attributes)
        if tag == "a":
            assert (attributes["href"] or "").lower().startswith(("http:", "https:", "mailto:")), attributes
            assert set((attributes["rel"] or "").split()) >= {"noopener", "noreferrer"}
    return found


ATTACKS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>1</script>'></iframe>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#x09;script:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x]( javascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "<javascript:alert(1)>",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox)",
    "[x](file:///etc/passwd)",
    "[x][r]\n\n[r]: javascript:alert(1)",
    '[x](https://a.b/"onmouseover="alert(1))',
    "[x](https://a.b '\"><script>alert(1)</script>')",
    "![x](https://a.b/pixel.png)",
    '![<script>alert(1)</script>](x" onerror="alert(1))',
    "![x](javascript:alert(1))",
    '```html"><script>alert(1)</script>\n<b>\n```',
    "```python\n</code></pre><script>alert(1)</script>\n```",
    "    </code></pre><script>alert(1)</script>",
    "`</code><script>alert(1)</script>`",
    "|<script>|\n|-|\n|<img src=x onerror=alert(1)>|",
    '<a href="https://a.b" style="position:fixed;inset:0">x</a>',
    "<!-- --><style>*{display:none}</style>",
    "<form action=/api/vote><button>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<details open ontoggle=alert(1)>",
    "[x](/api/next) [y](//evil.example) [z](#here) [w](?q)",
    "<<script>script>alert(1)<</script>/script>",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_come_out_as_text(text: str) -> None:
    found = check(safe_html(text))
    assert not {"script", "img", "svg", "iframe", "style", "form"} & {tag for tag, _ in found.tags}


PIECES = [
    "<script>",
    "</script>",
    "![",
    "](",
    "javascript:",
    "`",
    "```\n",
    "|",
    "\n",
    "\n\n",
    "&#x3c;",
    '"',
    "'",
    "<img ",
    ">",
]
PIECES += [
    "onerror=",
    "https://a.b",
    "[r]: ",
    "<!--",
    "-->",
    "<![CDATA[",
    "\0",
    "*",
    "_",
    "~~",
    "# ",
    "> ",
    "- ",
    "1. ",
    "\\",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=30).map("".join))
def test_any_text_is_harmless(text: str) -> None:
    check(safe_html(text))


def test_what_was_said_can_be_read() -> None:
    """No character of a text that looks like HTML is swallowed."""
    text = "Use <b>bold</b> & <script>alert('x')</script> in HTML."
    assert check(safe_html(text)).text.strip() == text


def test_images_are_named_and_not_loaded() -> None:
    found = check(safe_html("![a *cat*](https://a.b/cat.png)"))
    assert "a cat" in found.text
    assert "https://a.b/cat.png" in found.text


def test_ordinary_markdown() -> None:
    html = safe_html("# T\n\n**b** *i* ~~s~~ `c`\n\n1. x\n2. y\n\n|a|b|\n|-|-:|\n|1|2|\n\n[l](https://a.b) <me@a.b>")
    tags = [tag for tag, _ in check(html).tags]
    assert {"h4", "strong", "em", "s", "code", "ol", "table"} <= set(tags)
    assert tags.count("a") == 2
    assert '<td class="right">2</td>' in html


def test_code_is_coloured_and_complete() -> None:
    code = "def f(a):\n    return a < 1  # <b>\n\n\n"
    html = safe_html(f"```python\n{code}```")
    assert '<span class="t-k">def</span>' in html
    assert "style=" not in html
    assert check(html).text == code + "\n"
    assert check(safe_html(f"```no-such-language\n{code}```")).text == code + "\n"


HEAVY = {
    "newlines of Java": "```java\n" + "\n" * 20_000 + "```",
    "many blocks of Java": ("```java\n" + "\n" * 1_500 + "```\n") * 12,
    "newlines of reStructuredText": "```rst\n" + "\n" * 20_000 + "```",
    "brackets of Scala": "```scala\n" + "(" * 20_000 + "\n```",
    "images": "![" * 60_000,
    "links": "[" * 100_000,
    "a table": "|a|\n|-|\n" + "|\n" * 60_000,
}


@pytest.mark.parametrize("name", HEAVY)
def test_no_text_stalls_the_server(name: str) -> None:
    """Each took 4 to 12 s before the sizes were bounded; what is left is under a second here."""
    begun = time.process_time()
    check(safe_html(HEAVY[name]))
    assert time.process_time() - begun < 3


def test_the_same_text_is_rendered_once() -> None:
    text = "!" + "[" * 15_000
    safe_html(text)
    begun = time.process_time()
    for _ in range(100):
        safe_html(text)
    assert time.process_time() - begun < 0.1


def test_code_is_coloured_up_to_a_sum() -> None:
    block = "```python\n" + "1\n" * (MAX_CODE // 2 - 1) + "```\n"
    assert "t-mi" in safe_html(block)
    found = safe_html(f"{block}\n\nand\n\n{block}")
    assert found.count("t-mi") == MAX_CODE // 2 - 1, "the first block alone"
    assert check(found).text.count("1\n") == MAX_CODE - 2


@pytest.mark.parametrize(
    "text", ["x" * (MAX_MARKDOWN + 1), "```python\n" + "f(" * MAX_CODE + "\n```", "[" * 20_000, "> " * 5_000]
)
def test_long_and_deep_texts_end(text: str) -> None:
    assert check(safe_html(text)).text.count("x") == text.count("x")
