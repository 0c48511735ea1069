"""What `crossmodal data check` looks at."""

from datamodules.checking.check import DataCheck
from datamodules.checking.samples import in_words, read_sample

__all__ = ["DataCheck", "in_words", "read_sample"]
