"""Tokens with their weights as a person sees them, in the terminal and on the page."""

from collections.abc import Iterator
from itertools import groupby

from markupsafe import Markup, escape
from rich.text import Text

from posttrain.recipes.doctor_view import GAP, Branch, Piece, View


def for_terminal(shown: View, *, colour: bool) -> Iterator[Text]:
    """One rich text for each branch: trained tokens bold green, the prompt dim, what is cut struck through. Without
    colours trained runs stand between ⟦ and ⟧."""
    yield Text(
        f"{shown.source}: {shown.num_tokens:,} tokens, {shown.num_trained:,} trained"
        + (f", {shown.num_cut:,} beyond max_length" if shown.num_cut else ""),
        style="bold",
    )
    for number, branch in enumerate(shown.branches):
        line = Text("  " * branch.depth)
        if len(shown.branches) > 1:
            after = f", after {branch.parent + 1}" if branch.parent >= 0 else ""
            line.append(f"[branch {number + 1}{after}] ", style="cyan")
        open_run = False
        for piece in branch.pieces:
            if bool(piece.weight) != open_run and not colour:
                line.append("⟧" if open_run else "⟦")
            open_run = bool(piece.weight)
            line.append(visible(piece.text).replace("↵", "↵\n" + "  " * branch.depth), style=_style(piece))
        if open_run and not colour:
            line.append("⟧")
        yield line


def _style(piece: Piece) -> str:
    style = "bold green" if piece.weight else "dim"
    return f"{style} strike" if piece.is_cut else style


def visible(text: str) -> str:
    """White space that would not be seen, made visible: line ends, tabs, and what cannot be printed.

    >>> visible("a\\n\\tb\\u200b")
    'a↵→b\\\\u200b'
    """
    shown = {"\n": "↵", "\t": "→", "\r": "␍"}
    return "".join(shown.get(c) or (c if c.isprintable() else f"\\u{ord(c):04x}") for c in text)


LINE_END = '<i class="ws">↵</i>\n'


def tokens(branch: Branch) -> Markup:
    """The tokens of a branch as spans: underlined where they are trained, boxed where they are control tokens."""
    return Markup("").join(map(_token, branch.pieces))


def _token(piece: Piece) -> Markup:
    classes = ["t"]
    classes += ["on" if piece.weight >= 1 else "part"] if piece.weight else []
    classes += ["control"] * piece.is_control + ["cut"] * piece.is_cut + ["byte"] * (not piece.text)
    name = "left out here" if piece.token_id == GAP else f"id {piece.token_id}"
    note = f"{name}, weight {piece.weight:g}" + (", beyond max_length" if piece.is_cut else "")
    text = str(escape(visible(piece.text)))
    text = text.replace(" ", '<i class="sp"> </i>').replace("→", '<i class="ws">→\t</i>')
    return Markup(f'<span class="{" ".join(classes)}" title="{note}">{text.replace("↵", LINE_END)}</span>')


def ids(branch: Branch) -> str:
    """The ids of a branch in order, those that are trained between brackets."""
    runs = groupby(branch.pieces, key=lambda piece: bool(piece.weight))
    words = (
        (trained, " ".join("…" if piece.token_id == GAP else str(piece.token_id) for piece in run))
        for trained, run in runs
    )
    return " ".join(f"[{run}]" if trained else run for trained, run in words)
