"""Key policies: read, evaluate, render, lint, simulate and apply them (key-release.md sections 3 to 7)."""
