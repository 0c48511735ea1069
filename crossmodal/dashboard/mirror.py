"""Shows runs in trackio: their files are the truth, and what trackio has is made from them, over and over."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import vl_convert
from PIL import Image as Picture
from trackio import Audio, Image, Table
from trackio.sqlite_storage import SQLiteStorage

from crossmodal.check.charts import DAY
from crossmodal.dashboard.runs import FoundRun, is_locked, look_at, run_folders
from crossmodal.media import read_media
from crossmodal.metrics_file import MetricsFile
from crossmodal.report.plots import CONFIG, SCHEMA, Plot, diagonal, heat_map

MOST_MEDIA = 8  # of a name and run, the newest
# what a file that is gone, damaged or of another release may lead to
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # where trackio's store lies: it is tried again
FAULTS = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, csv.Error)


class Mirror:
    """The runs of a folder, as trackio shows them.

    Args:
        runs: The folder of all runs.
        project: What trackio calls it.
    """

    def __init__(self, runs: Path, project: str) -> None:
        self.runs = runs
        self.project = project
        self._seen: dict[Path, object] = {}
        self._figures: dict[Path, MetricsFile] = {}
        self._brought: dict[Path, int] = {}  # rows of them
        self._media: dict[Path, set[tuple[str, int]]] = {}
        self._waiting: dict[Path, FoundRun] = {}  # for their media to be brought
        self._titles: dict[Path, str] = {}
        self._stale: set[Path] = set()  # to be taken back

    def update(self) -> Iterator[FoundRun]:
        """Bring what has changed over, the newest runs first, media last; yield each run, and again for each medium.

        Who takes no more is left with what was brought until then; the next update goes on with the rest.
        """
        there = run_folders(self.runs)
        for _, path in there:
            state = _state(path)
            if self._seen.get(path) != state:
                run = look_at(path, self.runs)
                try:
                    self._bring_figures(run)
                except FAULTS as error:
                    if isinstance(error, OSError):  # of trackio's store: it is tried again
                        raise
                    self._tell(run, [f"metrics.csv cannot be read: {error}"])
                self._seen[path] = state
                self._waiting[path] = run
                yield run
        for path, run in list(self._waiting.items()):
            for _ in self._bring_media(run):
                yield run
            del self._waiting[path]
        for path in self._seen.keys() - {path for _, path in there}:  # it was deleted
            self._forget(path)
            del self._seen[path]

    def _forget(self, path: Path) -> None:
        """Take a run back; figures and media that are there are brought anew."""
        name = str(path.relative_to(self.runs))
        SQLiteStorage.delete_run(self.project, self._titles.get(path, name), run_id=name)
        self._stale.discard(path)  # now that it is gone: the store may be locked
        self._titles.pop(path, None)
        self._figures.pop(path, None)
        self._brought.pop(path, None)
        self._media.pop(path, None)
        self._waiting.pop(path, None)

    def _bring_figures(self, run: FoundRun) -> None:
        figures = self._figures.setdefault(run.path, MetricsFile(run.path / "metrics.csv"))
        if figures.read() is None:  # it went on from a checkpoint, and wrote rows again
            self._stale.add(run.path)
        # or it was damaged, or is no more
        if run.path in self._stale or self._titles.get(run.path, run.title) != run.title:
            self._forget(run.path)
            self._figures[run.path] = figures
        self._titles[run.path] = run.title
        rows, before = figures.rows, self._brought.get(run.path, 0)
        new = rows[before:]
        SQLiteStorage.bulk_log(
            self.project,
            run.title,
            [{name: one for name, one in row.figures.items() if math.isfinite(one)} for row in new] or [{}],
            steps=[row.step for row in new] or [rows[-1].step if rows else 0],
            config=_config(run),
            # what is no row of it has another name, or the row of this number would be taken for it
            log_ids=[f"{run.name}:{before + number}" for number in range(len(new))] or [f"{run.name}:begun"],
            run_id=run.name,
        )
        self._brought[run.path] = len(rows)  # now that they are there: a disk may be full, and then no more
        not_finite = [f"{name} was {value} at step {step}" for name, (step, value) in figures.not_finite.items()]
        self._tell(run, [*run.faults, *not_finite])

    def _tell(self, run: FoundRun, faults: list[str]) -> None:
        """Raise an alert for each fault; one that was told is not told again."""
        SQLiteStorage.bulk_alert(
            self.project,
            run.title,
            titles=[f"{run.name}: {fault}" for fault in faults],
            texts=[*faults],
            levels=["warn"] * len(faults),
            steps=[None] * len(faults),
            alert_ids=[f"{run.name}: {fault}" for fault in faults],
            run_id=run.name,
        )

    def _bring_media(self, run: FoundRun) -> Iterator[None]:
        by_name: dict[str, list[dict[str, Any]]] = {}
        try:
            for line in read_media(run.path):
                by_name.setdefault(line["name"], []).append(line)
        except FAULTS as error:
            self._tell(run, [f"media.jsonl cannot be shown: {error}"])
            return
        known = self._media.setdefault(run.path, set())
        for name, lines in by_name.items():
            for line in lines[-MOST_MEDIA:]:
                if (name, line["step"]) not in known:
                    self._bring(run, line)
                    known.add((name, line["step"]))
                    yield

    def _bring(self, run: FoundRun, line: dict[str, Any]) -> None:
        name, step = line["name"], line["step"]
        try:
            shown = self._shown(run, line)
        except FAULTS as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            shown = {f"{name} cannot be shown": f"{type(error).__name__}: {error}"}
        SQLiteStorage.bulk_log(
            self.project, run.title, [shown], steps=[step], log_ids=[f"{run.name}:{name}:{step}"], run_id=run.name
        )

    def _shown(self, run: FoundRun, line: dict[str, Any]) -> dict[str, Any]:
        name, step = line["name"], line["step"]
        if line["kind"] == "examples":
            return self._examples(run, line)
        picture = Image(_png(_plot(line)))
        picture._save(self.project, run.title, step)
        return {name: picture._to_dict()}

    def _examples(self, run: FoundRun, line: dict[str, Any]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        sounds: dict[str, Path] = {}
        for row in line["rows"]:
            cells: dict[str, Any] = {}
            for modality, kept in row["inputs"].items():
                if kept["kind"] == "image":
                    cells[modality] = Image(str(run.path / kept["file"]))
                elif kept["kind"] == "audio":
                    cells[modality] = f"{kept['seconds']:.1f} s, below"
                    sounds.setdefault(f"{line['name']}/{modality}/{row['id']}", run.path / kept["file"])
                else:
                    cells[modality] = kept.get("text") or (json.dumps(kept["cells"]) if "cells" in kept else "")
            told = {f"by {name}": said for name, said in row["experts"].items()}
            apart = {} if row["disagreement"] is None else {"disagreement": round(row["disagreement"], 3)}
            rows.append(
                {"row": row["id"], **cells, "target": row["target"], "prediction": row["prediction"], **told, **apart}
            )
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = Table(columns=columns, data=[[row.get(key) for key in columns] for row in rows])
        found = {line["name"]: table._to_dict(self.project, run.title, line["step"])}
        for name, path in list(sounds.items())[:2]:
            sound = Audio(str(path), caption=name)
            sound._save(self.project, run.title, line["step"])
            found[name] = sound._to_dict()
        return found


def _state(path: Path) -> object:
    """Return what differs when a run's files do."""
    found: list[object] = [is_locked(path / ".lock")]  # a run that is killed changes no file
    for name in ("metrics.csv", "media.jsonl", "config.yaml", "metrics.json"):
        try:
            told = (path / name).stat()
            found.append((told.st_mtime_ns, told.st_size))
        except OSError:
            found.append(None)
    return tuple(found)


def _config(run: FoundRun) -> dict[str, Any]:
    created = datetime.fromtimestamp(run.changed, UTC).isoformat()
    figures = {f"final {name}": value for name, value in run.figures.items()}
    fault = {"fault": "; ".join(run.faults)} if run.faults else {}
    group = run.name.rpartition("/")[0] or run.name
    return {"status": run.status, **fault, **figures, **run.config, "_Created": created, "_Group": group}


def _plot(line: dict[str, Any]) -> Plot:
    if line["kind"] == "curve":
        return diagonal(line["name"], line["x"], line["y"])
    titles = {"row_title": line["row_title"], "column_title": line["column_title"]}
    return heat_map(line["name"], line["values"], rows=line["rows"], columns=line["columns"], **titles)


def _png(plot: Plot) -> Any:
    spec = json.dumps({"$schema": SCHEMA, **plot.spec, "config": CONFIG, "width": 380, "background": "white"})
    for name, colour in {"quiet": DAY["quiet"], "text": DAY["text"], "card": "#fff", "line": "#dcdfe4"}.items():
        spec = spec.replace(f"var(--{name})", colour)
    spec = spec.replace("var(--c0)", DAY["c0"])
    return Picture.open(io.BytesIO(vl_convert.vegalite_to_png(spec, scale=1.5)))
