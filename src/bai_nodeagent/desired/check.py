"""Is a document right: one layer alone, the merged one, the expanded one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from ..errors import Mistake
from ..model import Kind
from . import schema, sentences, variables
from .documents import MOST_FAULTS, Fault
from .formats import FORMATS, NAME, VERBATIM, is_name
from .places import (
    SECRET_KEY,
    UNSET_KEY,
    VALUES,
    is_secret,
    is_unset,
    named,
    secret_places,
    spelled,
    walk,
)
from .secrecy import Place

_NODE_ONLY = "is allowed in a node's own document only"
_MOST_ERRORS = 10 * MOST_FAULTS


class Rules:
    """The kinds' schemas, made ready for checking."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.kinds = tuple(kinds)
        self.named = frozenset(kind.section for kind in kinds if kind.named)
        self.sections = schema.CORE_SECTIONS | {kind.section for kind in kinds}
        self.secret_places = secret_places(kinds)

    @cached_property
    def _layer(self) -> Any:
        return _Lenient(schema.partial(self.kinds), format_checker=FORMATS)

    @cached_property
    def _merged(self) -> Any:
        return _Lenient(schema.whole(self.kinds), format_checker=FORMATS)

    @cached_property
    def _expanded(self) -> Any:
        return _Strict(schema.whole(self.kinds), format_checker=FORMATS)

    def layer(self, layer: str, document: dict[str, Any], known: Sequence[Fault]) -> list[Fault]:
        """The faults of one layer, with those that are `known` from reading it."""
        own = chain(
            known,
            _marker_faults(document, self),
            _item_faults(document, self.named),
            _faults_of_lists(document),
            _variable_faults(document, self),
            _faults_of_shared(layer, document),
        )
        covered = list(islice(own, MOST_FAULTS + 1))
        given = without_unset(document, self)
        found = covered + self._found(self._layer, given, covered)
        found += _own_faults(given, self, {fault.place[0] for fault in found if fault.place})
        return [Fault(named(f.place, document, self.named), f.what) for f in found]

    def merged(self, document: dict[str, Any]) -> list[Fault]:
        """The faults that only the layers together can have, and some of theirs once more."""
        found = [
            *self._found(self._merged, document),
            *_unknown_manager(document, self),
        ]
        found += _own_faults(document, self, {fault.place[0] for fault in found if fault.place})
        return [Fault(named(f.place, document, self.named), f.what) for f in found]

    def expanded(self, document: dict[str, Any], unresolved: Iterable[Place]) -> list[Fault]:
        """The faults of the document with its variables filled in, but for the places
        where that could not be done."""
        pending = frozenset(unresolved)
        found = [f for f in self._found(self._expanded, document) if f.place not in pending]
        return [Fault(named(f.place, document, self.named), f.what) for f in found]

    @staticmethod
    def _found(
        validator: Any, document: Mapping[str, Any], covered: Sequence[Fault] = ()
    ) -> list[Fault]:
        places = {fault.place for fault in covered}
        found = sentences.faults(islice(validator.iter_errors(document), _MOST_ERRORS))
        fresh = (f for f in found if not is_below(f.place, places))
        return list(dict.fromkeys(islice(fresh, MOST_FAULTS + 1)))


def is_below(place: Place, places: Iterable[Place]) -> bool:
    """Whether a place is one of these, or lies inside of one."""
    return any(place[:length] in places for length in range(len(place) + 1))


def mistakes(layer: str, faults: Iterable[Fault]) -> list[Mistake]:
    """For people: sorted by place, and cut where they become too many."""
    mistakes_found = sorted({Mistake(layer, spelled(fault.place), fault.what) for fault in faults})
    if len(mistakes_found) <= MOST_FAULTS:
        return mistakes_found
    rest = f"has more than {MOST_FAULTS} mistakes; the others are not shown"
    return [*mistakes_found[:MOST_FAULTS], Mistake(layer, "", rest)]


def without_unset(document: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """A copy in which sections and named items that are unset are simply not there.

    The positions of the other items stay as they were, for the mistakes' sake.
    """
    return {
        section: [{} if is_unset(item) else item for item in value]
        if section in rules.named and isinstance(value, list)
        else value
        for section, value in document.items()
        if not (section in rules.sections and is_unset(value))
    }


def _known(document: Mapping[str, Any], rules: Rules) -> Iterator[tuple[Place, Any]]:
    for section, value in document.items():
        if section in rules.sections:
            yield from walk(value, (section,))


def _marker_faults(document: Mapping[str, Any], rules: Rules) -> Iterator[Fault]:
    for place, value in _known(document, rules):
        if is_unset(value):
            what = _unset_fault(place, value, rules)
        elif is_secret(value):
            what = _secret_fault(place, value)
        else:
            continue
        if what:
            yield Fault(place, what)


def _unset_fault(place: Place, value: Mapping[str, Any], rules: Rules) -> str | None:
    beside = set(value) - {UNSET_KEY}
    is_item = len(place) == 2 and place[0] in rules.named and isinstance(place[1], int)
    is_value = place[:2] == VALUES and len(place) > 2 and all(isinstance(p, str) for p in place)
    if not (is_item or is_value or len(place) == 1):
        return (
            "can't be unset; { unset = true } may replace a whole section, a named item,"
            " and a key below agent-config.values"
        )
    if value[UNSET_KEY] is not True:
        return "has unset with another value; allowed: { unset = true }, or a table without it"
    if beside - ({"name"} if is_item else set()):
        wanted = '{ name = "NAME", unset = true }' if is_item else "{ unset = true }"
        return f"has unset beside other keys; allowed: {wanted}, or a table without it"
    return None


def _secret_fault(place: Place, value: Mapping[str, Any]) -> str | None:
    is_value = place[:2] == VALUES and len(place) > 2
    is_env = len(place) > 2 and place[-2] == "env"
    if not (is_value or is_env):
        return (
            "can't be a secret; { secret = NAME } may replace a value below"
            " agent-config.values and in env"
        )
    if not is_name(value[SECRET_KEY]):
        return "has a wrong secret's name; allowed: a name of a-z, 0-9, '.', '_' and '-'"
    if len(value) > 1:
        return "has secret beside other keys; allowed: { secret = NAME } alone"
    return None


def _item_faults(document: Mapping[str, Any], sections: Collection[str]) -> Iterator[Fault]:
    for section, items in document.items():
        if section not in sections:
            continue
        names = [
            item.get("name") if isinstance(item, Mapping) else None
            for item in (items if isinstance(items, list) else ())
        ]
        counts = Counter(name for name in names if is_name(name))
        for index, name in enumerate(names):
            if not is_name(name):
                what = "is missing" if name is None else "is not a name"
                wanted = "allowed: a name of a-z, 0-9, '.', '_' and '-'"
                yield Fault((section, index, "name"), f"{what}; {wanted}")
            elif counts[name] > 1:
                yield Fault((section, index), "occurs more than once; allowed: each name once")


def _faults_of_lists(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Items below the values of agent.toml that bear one name, which are one item twice."""
    section = document.get("agent-config")
    values = section.get("values") if isinstance(section, Mapping) else None
    for place, items in walk(values, VALUES):
        if not isinstance(items, list):
            continue
        names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
        counts = Counter(name for name in names if isinstance(name, str))
        for index, name in enumerate(names):
            if isinstance(name, str) and counts[name] > 1:
                yield Fault((*place, index), "occurs more than once; allowed: each name once")


def _variable_faults(document: Mapping[str, Any], rules: Rules) -> Iterator[Fault]:
    for place, text in variable_texts(document, rules):
        what = variables.mistake(text)
        if what:
            yield Fault(place, what)


def variable_texts(document: Mapping[str, Any], rules: Rules) -> Iterator[tuple[Place, str]]:
    """The strings of a document in which variables are filled in."""
    for place, value in _known(document, rules):
        if isinstance(value, str) and is_variable(place, rules):
            yield place, value


def is_variable(place: Place, rules: Rules) -> bool:
    """Whether variables are filled in here: not in [node], names of items, names of secrets."""
    is_item_name = len(place) == 3 and place[0] in rules.named and place[2] == "name"
    is_secret_name = place[-1] == SECRET_KEY or place in rules.secret_places
    return place[0] != "node" and not is_item_name and not is_secret_name


def _faults_of_shared(layer: str, document: Mapping[str, Any]) -> Iterator[Fault]:
    node = document.get("node")
    is_shared = layer == "cluster" or layer.startswith("group/")
    if is_shared and isinstance(node, Mapping) and "groups" in node:
        yield Fault(("node", "groups"), _NODE_ONLY)
    agent = document.get("agent")
    if is_shared and isinstance(agent, Mapping) and "allow-session-loss" in agent:
        yield Fault(("agent", "allow-session-loss"), _NODE_ONLY)


def _unknown_manager(document: Mapping[str, Any], rules: Rules) -> Iterator[Fault]:
    """Variables that stand for something that no layer says."""
    node = document.get("node")
    given = node if isinstance(node, Mapping) else {}
    sources = {"manager-ip": "manager-ip", "manager-host": "manager-ip", "agent-ip": "agent-ip"}
    for place, text in variable_texts(document, rules):
        for name in sorted(variables.names_in(text) & sources.keys()):
            if sources[name] not in given:
                key = sources[name]
                yield Fault(place, f"uses ${{{name}}}, but no layer gives {key} in [node]")


def _own_faults(
    document: Mapping[str, Any], rules: Rules, wrong: Collection[Any]
) -> Iterator[Fault]:
    """What the kinds themselves find in their sections, but for those that are wrong anyway."""
    for kind in rules.kinds:
        if kind.section in document and kind.section not in wrong:
            try:
                yield from [
                    Fault((kind.section, *place), what)
                    for place, what in kind.check(document[kind.section])
                ]
            except Exception as error:
                yield Fault((kind.section,), f"can't be checked: {bug(error)}")


def bug(error: Exception) -> str:
    """That a kind has one, and where: a document that nobody can check is not taken."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace else None
    where = f" in {code.co_name}, line {trace.tb_lineno}" if code and trace else ""
    return f"a bug of this daemon: {type(error).__name__}: {error}{where}"


def _pattern(_validator: Any, pattern: str, text: Any, _schema: Any) -> Iterator[ValidationError]:
    # Python's "$" also matches before a last newline; JSON Schema's doesn't.
    exact = pattern.removesuffix("$") + r"\Z" if pattern.endswith("$") else pattern
    if isinstance(text, str) and not re.search(exact, text):
        yield ValidationError("does not match")


def _unless_variable(check: Any) -> Any:
    """A check of a string that lets one pass whose value isn't known yet."""

    def lenient(validator: Any, value: Any, text: Any, schema: Any) -> Any:
        is_verbatim = value == NAME or (isinstance(value, str) and value in VERBATIM)
        if isinstance(text, str) and "${" in text and not is_verbatim:
            return None
        return check(validator, value, text, schema)

    return lenient


_integer = Draft202012Validator.TYPE_CHECKER.redefine(
    # 1.0 is no integer in TOML.
    "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
)  # fmt: skip
_Strict = validators.extend(Draft202012Validator, {"pattern": _pattern}, type_checker=_integer)
_Lenient = validators.extend(
    _Strict,
    {
        word: _unless_variable(_Strict.VALIDATORS[word])
        for word in ("pattern", "format", "enum", "const", "minLength", "maxLength")
    }
    # Two of its branches may admit a string whose value isn't known yet.
    | {"oneOf": _Strict.VALIDATORS["anyOf"]},
)
