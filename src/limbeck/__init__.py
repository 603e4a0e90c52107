"""limbeck: turn a big trained network into a small, fast one, and prove what that cost."""
