"""What `crossmodal dashboard` shows: all runs of a folder, as their files have them."""
