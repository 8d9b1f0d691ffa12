"""Untrusted Markdown to HTML that is safe to show: no raw HTML, no scripts, no images, links to the web and mail only.

The text comes from language models and data sets, so all of it is hostile until shown otherwise. What reaches the page
is built here alone, from a fixed list of tags; the page's Content-Security-Policy is the second wall.
"""

from collections.abc import Callable, MutableMapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

LINKS = ("http", "https", "mailto")
# Parsing and colouring take time that grows with the square of a hostile text: at these sizes the worst texts known
# take under a second, so that none can stall the server.
MAX_MARKDOWN = 20_000  # characters; longer texts are shown as they are
MAX_CODE = 2_000  # characters of code that are coloured, over all blocks of a text
MAX_KEPT = 512  # texts whose HTML is kept


def safe_html(text: str) -> str:
    """The HTML of a Markdown text, for the inside of an element.

    >>> safe_html("**5** <b>6</b>")
    '<p><strong>5</strong> &lt;b&gt;6&lt;/b&gt;</p>\\n'
    >>> safe_html("[a](javascript:alert(1))")
    '<p>[a](javascript:alert(1))</p>\\n'
    """
    return plain_html(text) if len(text) > MAX_MARKDOWN else _rendered(text)


@lru_cache(MAX_KEPT)
def _rendered(text: str) -> str:
    return str(_PARSER.render(text, {"to_colour": MAX_CODE}))


def plain_html(text: str) -> str:
    """A text as it is, with its line breaks and spaces."""
    return f'<pre class="plain">{escape(text)}</pre>'


def code_html(code: str, language: str = "") -> str:
    """A block of code, coloured by classes where the language is known."""
    shown = escape(code)
    if language and len(code) <= MAX_CODE:
        try:
            lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
        except ClassNotFound:
            pass
        else:
            shown = highlight(code, lexer, _FORMATTER)
    # A scrolled block must be reachable by keyboard.
    return f'<pre class="code" tabindex="0" role="group" aria-label="Code"><code>{shown}</code></pre>\n'


def _is_safe(url: str) -> bool:
    """Whether a link may be followed: an address with a scheme of LINKS; never a relative one, which would lead into
    this server."""
    try:
        return urlsplit(url.strip()).scheme.lower() in LINKS
    except ValueError:
        return False


def _fence(_: RendererHTML, tokens: Sequence[Token], index: int, __: OptionsDict, env: MutableMapping[str, Any]) -> str:
    words, code = tokens[index].info.split(), tokens[index].content
    if not words or len(code) > env["to_colour"]:
        return code_html(code)
    env["to_colour"] -= len(code)
    return code_html(code, words[0])


def _link_open(_: RendererHTML, tokens: Sequence[Token], index: int, *__: Any) -> str:
    href = escape(str(tokens[index].attrGet("href") or ""))
    return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow" title="{href}">'


def _image(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    """What an image is called and where it lies, as text: loading it would tell its server who reads what."""
    said = self.renderInlineAsText(tokens[index].children, options, env) or "no description"
    return f'<span class="image">[image: {escape(said)} · {escape(str(tokens[index].attrGet("src") or ""))}]</span>'


def _html_as_text(_: RendererHTML, tokens: Sequence[Token], index: int, *__: Any) -> str:
    return escape(tokens[index].content)


def _parser() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True, "maxNesting": 24})
    made.enable(["table", "strikethrough"])
    # Where a link is refused, its source is shown as text.
    made.validateLink = _is_safe  # type: ignore[method-assign]
    rules: dict[str, Callable[..., str]] = {
        "fence": _fence,
        "code_block": _fence,
        "link_open": _link_open,
        "image": _image,
        "html_block": _html_as_text,
        "html_inline": _html_as_text,
    }
    for name, rule in rules.items():
        made.add_render_rule(name, rule)
    # Columns are aligned by an attribute, not by a style: the page allows no style in its markup.
    made.add_render_rule("td_open", _cell)
    made.add_render_rule("th_open", _cell)
    # The page's own headings stand above those of a text.
    for name in ("heading_open", "heading_close"):
        made.add_render_rule(name, _heading)
    return made


def _cell(_: RendererHTML, tokens: Sequence[Token], index: int, *__: Any) -> str:
    side = str(tokens[index].attrGet("style") or "").removeprefix("text-align:")
    return f'<{tokens[index].tag} class="{side}">' if side in ("left", "center", "right") else f"<{tokens[index].tag}>"


def _heading(_: RendererHTML, tokens: Sequence[Token], index: int, *__: Any) -> str:
    level = min(int(tokens[index].tag[1:]) + 3, 6)
    return f"<h{level}>" if tokens[index].nesting > 0 else f"</h{level}>\n"


_FORMATTER = HtmlFormatter(nowrap=True, classprefix="t-")
_PARSER = _parser()
