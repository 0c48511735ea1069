"""What `crossmodal init` finds in data, and the experiment that it proposes. Imports no torch."""
