"""Release of model keys to attested machines (key-release.md)."""
