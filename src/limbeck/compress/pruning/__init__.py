"""Removal of channels: which go together, which matter, how many go, and the surgery itself."""
