"""A file of guardrails as checked keys: every error names file, line, rule and field."""

import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel, ValidationError

from posttrain.errors import DataError
from posttrain.recipes.guardrails_config import KINDS, FileKeys, RuleKeys


class _Loader(yaml.SafeLoader):
    """YAML 1.2 in what is true and false: `on`, `yes` and `no` are words."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in found if tag != "tag:yaml.org,2002:bool"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF"))


class GuardrailsFile:
    """The keys of a file, and the line that each stands on."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.root = self._parsed()
        found = self._checked(FileKeys, self._values, ())
        assert isinstance(found, FileKeys)
        self.keys = found
        self.rules = [self._rule(row, number) for number, row in enumerate(found.rules)]
        names: dict[str, int] = {}
        for number, rule in enumerate(self.rules):
            if rule.name in names:
                line = self._line(("rules", names[rule.name]))
                self.fail(
                    f"there is a rule {rule.name!r} on line {line} already; rename one.", ("rules", number, "name")
                )
            names[rule.name] = number

    def fail(self, message: str, place: tuple[str | int, ...], field: str = "") -> NoReturn:
        """DataError at a place of the file. `field`: a key that is missing there."""
        whole = (*place, field) if field else place
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in whole).removeprefix(".")
        raise DataError(message, file=self.path, line=self._line(place), field=name)

    def _rule(self, row: Any, number: int) -> RuleKeys:
        place = ("rules", number)
        if not isinstance(row, dict):
            self.fail(f"expected a rule with name and kind, found {row!r}.", place)
        kind = row.get("kind")
        if kind is None:
            self.fail(f"the rule's kind is missing: one of {', '.join(KINDS)}.", place, "kind")
        if not isinstance(kind, str) or kind not in KINDS:
            near = difflib.get_close_matches(str(kind), KINDS, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KINDS)}."
            self.fail(f"unknown kind {kind!r}; {hint}", (*place, "kind"))
        found = self._checked(KINDS[kind], row, place)
        assert isinstance(found, RuleKeys)
        return found

    def _checked(self, model: type[BaseModel], values: dict[str, Any], place: tuple[str | int, ...]) -> BaseModel:
        called = f"rule {values['name']!r}: " if place and isinstance(values.get("name"), str) else ""
        for key in values:
            if key not in model.model_fields:
                near = difflib.get_close_matches(str(key), model.model_fields, 1, 0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(model.model_fields)}."
                self.fail(f"{called}unknown key {key!r}; {hint}", (*place, str(key)))
        try:
            return model.model_validate(values)
        except ValidationError as error:
            fault = error.errors()[0]
        inner = tuple(part for part in fault["loc"] if part in values or isinstance(part, int))
        if fault["type"] == "missing":
            field = str(fault["loc"][0])
            self.fail(f"{called}{field} is missing: {model.model_fields[field].description}", place, field)
        said = str(fault["ctx"]["error"]) if fault["type"] == "value_error" else ""
        key = str(inner[0]) if inner else next((word for word in said.split()[:1] if word in model.model_fields), "")
        if not said:
            about = model.model_fields[key].description if key in model.model_fields else ""
            said = f"{fault['msg'][:1].lower()}{fault['msg'][1:]}, found {str(fault['input'])[:80]!r}. {about}".strip()
        here = (*place, *inner) if inner else (*place, key) if key in values else place
        self.fail(called + said.rstrip(".") + ".", here, "" if key in values or not key else key)

    def _line(self, place: tuple[str | int, ...]) -> int | None:
        node: Any = self.root
        line = node.start_mark.line if node is not None else 0
        for part in place:
            if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
            elif isinstance(node, yaml.MappingNode):
                pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line, pair[1]
        return int(line) + 1

    def _parsed(self) -> Any:
        try:
            text = Path(self.path).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise DataError("there is no such file of guardrails; check the path.", file=self.path) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the guardrails cannot be read as UTF-8 text ({error}).", file=self.path) from None
        try:
            root = yaml.compose(text, Loader=_Loader)
            self._values = yaml.load(text, Loader=_Loader)  # a SafeLoader
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            said = getattr(error, "problem", None) or " ".join(str(error).split())
            line = mark.line + 1 if mark else None
            raise DataError(f"this is not valid YAML: {said}.", file=self.path, line=line) from None
        if not isinstance(self._values, dict):
            raise DataError("expected a mapping with `rules`, a list of rules.", file=self.path, line=1)
        self._no_doubles(root)
        return root

    def _no_doubles(self, node: Any) -> None:
        """YAML keeps the last of two equal keys; a rule would be lost in silence."""
        for child in getattr(node, "value", []) if isinstance(node, yaml.CollectionNode) else []:
            for each in child if isinstance(child, tuple) else (child,):
                self._no_doubles(each)
        seen: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            line = key.start_mark.line + 1
            if str(key.value) in seen:
                said = f"key {key.value!r} was already given on line {seen[str(key.value)]}; keep one."
                raise DataError(said, file=self.path, line=line, field=str(key.value))
            seen[str(key.value)] = line
