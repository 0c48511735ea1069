"""What `crossmodal data check` looks at."""

from datamodules.checking.check import DataCheck

__all__ = ["DataCheck"]
