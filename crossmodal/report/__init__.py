"""What `crossmodal report` shows of trained runs, as one page."""
