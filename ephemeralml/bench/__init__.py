"""Measurements of this installation: figures, ratios and the specs' targets, in one run."""
