"""Engines that run a verified model: see `base` for what they offer."""
