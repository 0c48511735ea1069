"""What `crossmodal data check` shows: in the terminal, as JSON and as a page."""
