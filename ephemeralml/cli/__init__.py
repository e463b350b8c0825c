"""The `ephemeralml` command: the only place that prints, parses options or exits."""
