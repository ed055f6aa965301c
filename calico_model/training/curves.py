"""The record of a training: one CSV row per logged step, and a picture of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from calico_model.staging import replace_text


class CurveLog:
    """Appends rows of named numbers to a CSV file; columns may appear later.

    Reopened after an interruption, it keeps the rows up to the step training resumes from.
    """

    def __init__(self, path: Path, *, resume_step: int) -> None:
        self._path = path
        self._rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="") as file:
                self._rows = [r for r in csv.DictReader(file) if int(r["step"]) <= resume_step]

    def add(self, step: int, stage: str, values: dict[str, float]) -> None:
        """Adds one row and rewrites the file."""
        row = {"step": str(step), "stage": stage}
        self._rows.append(row | {name: f"{value:.9g}" for name, value in values.items()})
        names = list(dict.fromkeys(name for r in self._rows for name in r))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        replace_text(self._path, text.getvalue())

    def plot(self, path: Path) -> None:
        """Draws every column against the step, one panel each; nothing is drawn before a row."""
        shown = [n for n in self._columns() if n not in ("step", "stage", "learning_rate")]
        if not shown:
            return
        figure = Figure(figsize=(11, 3 * ((len(shown) + 2) // 3)))
        FigureCanvasAgg(figure)
        for index, name in enumerate(shown):
            axes = figure.add_subplot((len(shown) + 2) // 3, 3, index + 1)
            points = [(int(r["step"]), float(r[name])) for r in self._rows if r.get(name)]
            axes.plot([p[0] for p in points], [p[1] for p in points], linewidth=1)
            axes.set_title(name, fontsize=9)
            axes.grid(alpha=0.3)
        figure.tight_layout()
        staged = path.with_name(f".{path.name}.staged")
        figure.savefig(staged, dpi=110, format="png")
        staged.replace(path)

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for r in self._rows for name in r))
