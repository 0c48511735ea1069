"""How a user's mistakes are told: one message, no traceback."""

from __future__ import annotations

import os
import re
import sys
from typing import NoReturn

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser

TRACEBACK = "CROSSMODAL_TRACEBACK"
# what a user's mistake raises; anything else is ours, and shows its traceback
MISTAKES = (ValueError, OSError, MisconfigurationException)


class Parser(LightningArgumentParser):
    """Answers a mistake with one message."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print it and exit with status 2."""
        if os.environ.get(TRACEBACK) and ex is not None:
            raise ex
        sys.stderr.write(f"crossmodal: error: {without_types(message)}\n")
        sys.exit(2)


def without_types(message: str) -> str:
    """Return what is wrong, where jsonargparse tells what each of a union's types said of a value."""
    said = re.findall(r"^ *- (.*(?:\n(?! *- |Given value).*)*)", message, re.MULTILINE)
    reasons = [reason for reason in said if not reason.startswith("Expected a ")]
    return reasons[0] if reasons and "Does not validate against any of the Union" in message else message
