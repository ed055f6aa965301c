"""What the generator can draw: object categories, their parts, and what is kept out of training.

Owns names, sharing and hold-outs. Does not know pixels or colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from calico_model.data.drawings import (
    animals,
    flyers,
    furniture,
    household,
    outdoors,
    unfamiliar,
    vehicles,
)
from calico_model.data.drawings.shapes import Shape

Builder = Callable[[np.random.Generator, frozenset[str]], list[Shape]]


@dataclass(frozen=True)
class Category:
    """One kind of object.

    Attributes:
        name: lower case, without article.
        parts: names every instance has.
        build: draws one instance in the object frame, given the optional parts to include.
        extras: names an instance may have.
        withheld: set of extras that never occur together in training, empty if none.
        spin_deg: largest in-plane rotation of a natural view, in degrees.
    """

    name: str
    parts: tuple[str, ...]
    build: Builder
    extras: tuple[str, ...] = ()
    withheld: frozenset[str] = frozenset()
    spin_deg: float = 20.0


def _both(first: str, second: str) -> frozenset[str]:
    return frozenset({first, second})


_TRAINED = (
    Category(
        "chair",
        ("leg", "seat", "backrest"),
        furniture.chair,
        ("armrest", "crossbar"),
        _both("armrest", "crossbar"),
    ),
    Category("stool", ("leg", "seat"), furniture.stool, ("crossbar",)),
    Category(
        "table",
        ("leg", "tabletop"),
        furniture.table,
        ("drawer", "crossbar"),
        _both("drawer", "crossbar"),
    ),
    Category("lamp", ("base", "pole", "lampshade"), furniture.lamp, ("bulb",)),
    Category(
        "clock", ("frame", "dial", "hand"), furniture.clock, ("bell", "leg"), _both("bell", "leg")
    ),
    Category("umbrella", ("canopy", "pole", "handle"), furniture.umbrella, (), spin_deg=45),
    Category(
        "car",
        ("body", "wheel", "window"),
        vehicles.car,
        ("door", "headlight"),
        _both("door", "headlight"),
    ),
    Category(
        "truck", ("cabin", "cargo box", "wheel", "window"), vehicles.truck, ("door", "headlight")
    ),
    Category("bus", ("body", "wheel", "window"), vehicles.bus, ("door", "headlight")),
    Category(
        "bicycle", ("wheel", "frame", "handle", "saddle", "pedal"), vehicles.bicycle, ("basket",)
    ),
    Category(
        "airplane", ("body", "wing", "tail"), flyers.airplane, ("window", "engine"), spin_deg=35
    ),
    Category(
        "rocket",
        ("body", "fin", "nose cone"),
        flyers.rocket,
        ("flame", "window"),
        _both("flame", "window"),
        spin_deg=50,
    ),
    Category(
        "boat", ("hull", "pole", "sail"), vehicles.boat, ("flag", "window"), _both("flag", "window")
    ),
    Category("mug", ("body", "handle", "rim"), household.mug, ("base",)),
    Category("teapot", ("body", "handle", "spout", "lid", "knob"), household.teapot, ("base",)),
    Category("kettle", ("body", "handle", "spout", "lid", "knob"), household.kettle, ("base",)),
    Category("pan", ("body", "handle", "rim"), household.pan, ("lid",), spin_deg=30),
    Category(
        "guitar", ("body", "neck", "head", "sound hole"), household.guitar, ("string",), spin_deg=60
    ),
    Category("scissors", ("blade", "handle"), household.scissors, ("screw",), spin_deg=60),
    Category("hammer", ("head", "handle"), household.hammer, ("grip",), spin_deg=60),
    Category("bird", ("head", "body", "wing", "tail", "beak", "eye"), flyers.bird, ("leg",)),
    Category("butterfly", ("wing", "body", "head"), flyers.butterfly, ("antenna",), spin_deg=45),
    Category("fish", ("body", "tail", "fin", "eye"), animals.fish, ("mouth",), spin_deg=30),
    Category(
        "dog", ("head", "body", "leg", "tail", "ear", "snout", "eye"), animals.dog, ("collar",)
    ),
    Category("cat", ("head", "body", "leg", "tail", "ear", "eye"), animals.cat, ("whisker",)),
    Category(
        "horse",
        ("head", "neck", "body", "leg", "tail", "ear"),
        animals.horse,
        ("mane", "saddle"),
        _both("mane", "saddle"),
    ),
    Category("house", ("wall", "roof", "door", "window"), outdoors.house, ("chimney",)),
    Category(
        "tree", ("trunk", "crown"), outdoors.tree, ("branch", "fruit"), _both("branch", "fruit")
    ),
)

_HELD_OUT = (
    Category("crab", ("body", "leg", "claw", "eye"), unfamiliar.crab),
    Category(
        "helicopter",
        ("body", "tail", "window", "rotor", "leg", "pole"),
        unfamiliar.helicopter,
        ("door",),
    ),
    Category("lighthouse", ("wall", "lantern", "roof", "window"), unfamiliar.lighthouse, ("door",)),
    Category("wheelbarrow", ("tray", "wheel", "leg", "handle"), unfamiliar.wheelbarrow),
)

_BY_NAME = {category.name: category for category in _TRAINED + _HELD_OUT}

HELD_OUT_PARTS: tuple[str, ...] = ("claw", "lantern", "rotor", "tray")
HELD_OUT_CATEGORIES: tuple[str, ...] = tuple(category.name for category in _HELD_OUT)
TRAINED_CATEGORIES: tuple[str, ...] = tuple(category.name for category in _TRAINED)
CATEGORIES: tuple[str, ...] = TRAINED_CATEGORIES + HELD_OUT_CATEGORIES
PART_NAMES: tuple[str, ...] = (
    *sorted({part for category in _TRAINED for part in category.parts + category.extras}),
    *HELD_OUT_PARTS,
)

WITHHELD_PAIRS: frozenset[frozenset[str]] = frozenset(
    {
        frozenset({"mug", "teapot"}),
        frozenset({"car", "bicycle"}),
        frozenset({"bird", "airplane"}),
        frozenset({"chair", "table"}),
        frozenset({"dog", "horse"}),
        frozenset({"lamp", "umbrella"}),
    }
)
"""Pairs of categories that share parts and are never compared with each other in training."""


def category(name: str) -> Category:
    """Returns the category of that name (KeyError for a name outside `CATEGORIES`)."""
    return _BY_NAME[name]


def parts_of(name: str) -> tuple[str, ...]:
    """Returns every part name an instance of the category can have, optional ones last."""
    return _BY_NAME[name].parts + _BY_NAME[name].extras


def partners(name: str, part: str) -> tuple[str, ...]:
    """Returns the other categories of the same half (trained or held out) that always have `part`.

    Args:
        name: a category name.
        part: a part name, one of `parts_of(name)`.
    """
    half = _HELD_OUT if name in HELD_OUT_CATEGORIES else _TRAINED
    return tuple(other.name for other in half if part in other.parts and other.name != name)
