"""Layers as products of smaller ones: the formulas, how ranks are chosen, and the way back (`fold`)."""
