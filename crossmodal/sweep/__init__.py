"""Sweeps: many runs of one experiment, whose settings a search chooses. Nothing here imports torch."""
