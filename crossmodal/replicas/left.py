"""What compression has left of a node's changes, on its disk, so that it outlives the process."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from crossmodal.replicas.node import Memory
from crossmodal.whole_files import temporary_name

RUN = re.compile(r"[0-9a-f]{1,32}")


class Left:
    """A file for each of the last two rounds, so that a round can be done again: its answer may have been lost.

    Args:
        folder: Of the node; of other runs than the last nothing is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, run: str, round_: int) -> Memory:
        """Return what was left before a round.

        Args:
            run: Of the server.
            round_: Its number.

        Raises:
            ValueError: The run has no such name.
        """
        earlier = [number for number in self._rounds(run) if number < round_]
        return Memory(dict(load_file(self._file(run, max(earlier)))) if earlier else {})

    def keep(self, run: str, round_: int, memory: Memory) -> None:
        """Keep what is left after a round."""
        if not memory.left and not self._rounds(run):
            return
        path = self._file(run, round_)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path.parent)
        try:
            save_file({name: value.cpu().contiguous().clone() for name, value in memory.left.items()}, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        rounds = self._rounds(run)
        wanted = {round_, *[number for number in rounds if number < round_][-1:]}
        for number in rounds:
            if number not in wanted:
                self._file(run, number).unlink(missing_ok=True)
        for other in self._folder.iterdir():
            if other.name != run:
                shutil.rmtree(other, ignore_errors=True)

    def _rounds(self, run: str) -> list[int]:
        return sorted(int(path.stem) for path in self._of_run(run).glob("[0-9]*.safetensors"))

    def _file(self, run: str, round_: int) -> Path:
        return self._of_run(run) / f"{round_}.safetensors"

    def _of_run(self, run: str) -> Path:
        if not RUN.fullmatch(run):
            raise ValueError(f"there is no run of the name {run!r}")
        return self._folder / run
