"""Where paired data comes from. See datamodules.batch for the contract."""
