"""The findings of `calico lint` in plain words: lines for a terminal, and a page with pictures."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from html import escape

from backend.cli.label_lint import LintReport
from calico_model.evaluation.label_check import AlikeLooks, AlikeWords, StrayWord

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}"
    "figure{margin:.5rem 0}figcaption{font-weight:bold}img{margin:2px;border:1px solid #ccc}"
)


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        title: which labels.
        what: what was seen.
        advice: what to do.
        rows: label -> positions of its example pictures.
    """

    title: str
    what: str
    advice: str
    rows: tuple[tuple[str, tuple[int, ...]], ...] = ()


def findings_of(report: LintReport) -> tuple[Finding, ...]:
    """Returns every finding in plain words, looks first."""
    return (
        *map(_looks, report.looks.alike),
        *map(_words, report.words),
        *map(_stray, report.stray),
        *map(_spelling, report.spelling),
    )


def _looks(pair: AlikeLooks) -> Finding:
    first, second = pair.labels
    return Finding(
        f"{first} and {second} look alike",
        f"Of {pair.regions[0]} regions {first} and {pair.regions[1]} regions {second}, the most "
        f"similar region of another group has the right one of the two labels in "
        f"{pair.separation:.0%} of the cases. Guessing gives 50%.",
        "If both mean the same, keep one label and rename the regions of the other. If they differ "
        "by their place (front, rear), keep both, and expect to correct names more often. If the "
        "pictures show regions with the wrong label, correct those.",
        tuple(zip(pair.labels, pair.examples, strict=True)),
    )


def _words(pair: AlikeWords) -> Finding:
    first, second = pair.labels
    return Finding(
        f"{first} and {second} are one word to {pair.source}",
        f"Asked for each of them, {pair.source} outlines the same place on {pair.share:.0%} of "
        f"{pair.images} images.",
        "Choose words that differ more, or add the object to the label (chair leg, table leg). "
        "Until then draw these parts by click or box: a typed name does not tell them apart.",
    )


def _stray(word: StrayWord) -> Finding:
    return Finding(
        f"{word.label} means {word.instead} to {word.source}",
        f"Asked for {word.label}, {word.source} outlines what people labeled {word.instead} on "
        f"{word.share:.0%} of {word.images} images that show both.",
        f"Rename {word.label} to a word that names the thing more exactly, or check on some tasks "
        "whether people mix up the two labels.",
    )


def _spelling(labels: tuple[str, ...]) -> Finding:
    return Finding(
        f"{' and '.join(labels)} are one name",
        "They differ by case, plural or punctuation only.",
        "Keep one of them. As words they are the same name to the model.",
    )


def page_of(report: LintReport, title: str) -> str:
    """Returns a page that needs no other file.

    Args:
        report: what was found.
        title: of the project or data set.
    """
    sections = "".join(_section(finding, report) for finding in findings_of(report))
    none = "<p>The model can tell all labels apart.</p>" if not sections else ""
    few = ", ".join(map(escape, report.looks.unjudged))
    unjudged = f"<p>With too few regions to judge: {few}.</p>" if few else ""
    unknown = ", ".join(map(escape, report.unknown_words))
    words = f"<p>Not known as words, so not asked: {unknown}.</p>" if unknown else ""
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>Labels of {escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>Labels of {escape(title)}</h1>"
        f"<p>{report.groups} labeled groups, {len(report.pictures)} regions.</p>"
        f"{none}{sections}{unjudged}{words}</html>\n"
    )


def _section(finding: Finding, report: LintReport) -> str:
    rows = "".join(
        f"<figure><figcaption>{escape(label)}</figcaption>"
        + "".join(_image(report.pictures[number], label) for number in numbers)
        + "</figure>"
        for label, numbers in finding.rows
    )
    return (
        f"<h2>{escape(finding.title)}</h2><p>{escape(finding.what)}</p>{rows}"
        f"<p>What to do: {escape(finding.advice)}</p>"
    )


def _image(jpeg: bytes, label: str) -> str:
    return (
        f"<img src='data:image/jpeg;base64,{b64encode(jpeg).decode()}' "
        f"alt='{escape(label, quote=True)}'>"
    )
