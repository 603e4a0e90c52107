"""Smaller models from big ones, and what they cost: see `limbeck.compress.cost`."""
