"""The parser of `crossmodal fit | validate | test | predict`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from crossmodal.errors import TRACEBACK, refuse


class Parser(LightningArgumentParser):
    """Answers a mistake with one message."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print it and exit with status 2."""
        if os.environ.get(TRACEBACK) and ex is not None:
            raise ex
        sys.exit(refuse(message, 2))
