"""Counts this process's open descriptors, to show that nothing leaks."""

from pathlib import Path


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
