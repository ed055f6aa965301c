"""Which classes of objects are comparable, and what their parts are called.

The plan is a file; `classes.toml` is ours. The paper's list of class pairs was made by hand and is
not published: ours follows a rule with exceptions.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import combinations_with_replacement
from pathlib import Path

import msgspec

from calico_model.errors import InvalidConfigError

_Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ObjectClass:
    """A class of objects: the names of its parts, and the names it has in families."""

    parts: frozenset[str]
    family_names: frozenset[str]


class SourcePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plan for one source.

    Attributes:
        families: classes that may be compared with each other, by a name for people.
        include, exclude: pairs of classes to add and to leave out.
        weak: parts that do not make two classes comparable.
        rename: other names of parts; two parts of one name are one.
        drop: parts that are none.
    """

    families: dict[str, tuple[str, ...]] = {}
    include: _Pairs = ()
    exclude: _Pairs = ()
    weak: tuple[str, ...] = ()
    rename: dict[str, str] = {}
    drop: tuple[str, ...] = ()

    def part_name(self, label: str, part: str) -> str | None:
        """Returns what a part of an object class is called, None if it is none."""
        if part in self.drop or f"{label}: {part}" in self.drop:
            return None
        return self.rename.get(f"{label}: {part}", self.rename.get(part, part))

    def comparable(self, classes: Mapping[str, ObjectClass]) -> tuple[tuple[str, str], ...]:
        """Returns the pairs of classes to compare, sorted; a class with itself among them."""
        return tuple(self._comparable(classes))

    def _comparable(self, classes: Mapping[str, ObjectClass]) -> Iterator[tuple[str, str]]:
        included = {frozenset(pair) for pair in self.include}
        excluded = {frozenset(pair) for pair in self.exclude}
        families = [frozenset(members) for members in self.families.values()]
        weak = frozenset(self.weak)
        for a, b in combinations_with_replacement(sorted(classes), 2):
            pair, one, other = frozenset((a, b)), classes[a], classes[b]
            if pair in excluded or not one.parts & other.parts:
                continue
            is_related = a == b or any(
                family & one.family_names and family & other.family_names for family in families
            )
            if pair in included or (is_related and (one.parts & other.parts) - weak):
                yield a, b


class ClassPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plan for all sources, by `dataset_name`."""

    paco_lvis: SourcePlan = SourcePlan()
    part_image_net: SourcePlan = SourcePlan()
    ade20k_part234: SourcePlan = SourcePlan()


def read_plan(path: Path | None = None) -> ClassPlan:
    """Reads a plan.

    Args:
        path: a TOML or JSON file; ours if None.

    Raises:
        InvalidConfigError: missing, neither, or an unknown key; names file and key.
    """
    if path is None:
        ours = resources.files(__package__).joinpath("classes.toml")
        return _convert("classes.toml", tomllib.loads(ours.read_text("utf-8")))
    try:
        text = path.read_text("utf-8")
        content = msgspec.json.decode(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InvalidConfigError(f"--classes: expected a readable file, got {path}") from error
    except ValueError as error:
        raise InvalidConfigError(f"{path.name}: expected TOML or JSON: {error}") from error
    return _convert(path.name, content)


def _convert(name: str, content: object) -> ClassPlan:
    try:
        return msgspec.convert(content, type=ClassPlan)
    except msgspec.ValidationError as error:
        raise InvalidConfigError(f"{name}: {error}") from error
