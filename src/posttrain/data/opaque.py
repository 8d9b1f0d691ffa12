"""Which templates pass contents through untouched? A content that notices what is done with it tells."""

from collections.abc import Callable
from typing import Any

from jinja2 import nodes

# What may be done to a content without looking into it: put it out, append it, copy it, ask whether it is text.
UNSEEING = {
    "__add__",
    "__class__",
    "__delattr__",
    "__dir__",
    "__doc__",
    "__format__",
    "__getattribute__",
    "__init__",
    "__init_subclass__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setattr__",
    "__sizeof__",
    "__str__",
    "__subclasshook__",
    "__eq__",
    "__ne__",
    "strip",
    "lstrip",
    "rstrip",
}
FILTERS = {"trim", "default", "d", "string", "tojson", "list", "length", "count", "first", "last", "map", "selectattr"}
FILTERS |= {"rejectattr", "reverse"}
# After these a content could be looked at without noticing it.
BLIND = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Include, nodes.Import)
BLIND_METHODS = {"format", "format_map", "join"}


class Witness:
    """What was done with the contents of one rendering. `seen`: a template looked into one, so what it writes may
    depend on it. `trimmed`: white space at the ends was taken off."""

    def __init__(self) -> None:
        self.seen = self.trimmed = False


class Opaque(str):
    """A text that tells its witness when it is looked into. Sums of it are opaque too."""

    witness: Witness

    def __new__(cls, text: str, witness: Witness) -> "Opaque":
        made = super().__new__(cls, text)
        made.witness = witness
        return made

    def __add__(self, other: str) -> "Opaque":
        return Opaque(str.__add__(self, other), self.witness)

    def __radd__(self, other: str) -> "Opaque":
        return Opaque(str.__add__(other, self), self.witness)

    def __bool__(self) -> bool:
        return True  # contents are not empty here, and a template may ask for that

    def __eq__(self, other: object) -> bool:
        self.witness.seen |= other is not None
        return str.__eq__(self, other) if isinstance(other, str) else False

    def __ne__(self, other: object) -> bool:
        return not self == other

    def strip(self, chars: str | None = None, /) -> "Opaque":
        return self._trim(chars)

    lstrip = rstrip = strip

    def _trim(self, chars: str | None) -> "Opaque":
        self.witness.trimmed = True
        self.witness.seen |= chars is not None
        return self


def _noticing(name: str) -> Callable[..., Any]:
    method = getattr(str, name)

    def looked_into(self: Opaque, *args: Any, **kwargs: Any) -> Any:
        self.witness.seen = True
        return method(self, *args, **kwargs)

    return looked_into


for _name in set(dir(str)) - UNSEEING:
    setattr(Opaque, _name, _noticing(_name))


def can_be_watched(tree: nodes.Template) -> bool:
    """Whether everything that this template could do with a content would be noticed."""
    if any(True for _ in tree.find_all(BLIND)) or any(node.name not in FILTERS for node in tree.find_all(nodes.Filter)):
        return False
    if any(node.attr in BLIND_METHODS for node in tree.find_all(nodes.Getattr)):
        return False
    if any(
        isinstance(node.left, nodes.Const) and isinstance(node.left.value, str) for node in tree.find_all(nodes.Mod)
    ):
        return False
    if any(node.name == "in" for node in tree.find_all(nodes.Test)):
        return False
    for compare in tree.find_all(nodes.Compare):
        operators = {operand.op for operand in compare.ops}
        if operators & {"in", "notin"} and not _holds_no_content(compare.expr):
            return False
    # `a ~ b` is plain text again, so it may only be put out.
    put_out = {id(found) for output in tree.find_all(nodes.Output) for node in output.nodes for found in _joined(node)}
    return all(id(node) in put_out for node in tree.find_all(nodes.Concat))


def _holds_no_content(node: nodes.Expr) -> bool:
    """A constant, or the role of a message."""
    if isinstance(node, nodes.Getattr):
        return node.attr == "role"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "role"
    return isinstance(node, nodes.Const)


def _joined(node: nodes.Node) -> list[nodes.Node]:
    """The concatenations in what is put out, as far as nothing but sums stands around them."""
    if isinstance(node, nodes.Concat):
        return [node, *(inner for child in node.nodes for inner in _joined(child))]
    if isinstance(node, nodes.Add):
        return [*_joined(node.left), *_joined(node.right)]
    return []
