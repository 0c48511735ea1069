"""What libraries say that a user need not read."""

from __future__ import annotations

import logging
import os
import warnings

CHATTER = (
    "💡",
    "GPU available",
    "TPU available",
    "HPU available",
    "Seed set",
    "`Trainer.fit` stopped",
    "Restor",
    "Detected KeyboardInterrupt",
    "`weights_only` was not set",
    "Loaded model weights",
    "Loading `train_dataloader`",
)
# said of choices that are made on purpose here
EXPECTED_WARNINGS = (
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*module\\(s\\) in eval mode at the start of training.*",
    ".*does not have many workers.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*`_get_vc_` method.*",
    ".*dirpath has changed from.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
)


def tame_chatter() -> None:
    """Silence what libraries say of choices that are made on purpose here; real warnings stay."""
    # wandb's lines come from another process, after the last of ours; where the run lies is ours to say
    os.environ.setdefault("WANDB_SILENT", "true")
    for pattern in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().lstrip().startswith(CHATTER))
    for name in ("pytorch_lightning", "lightning_fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(lambda record: not record.getMessage().lstrip().startswith(CHATTER))
