"""Commands that hold keys leave no core dump: it would have them in the clear on a disk."""

import resource


def switch_off() -> None:
    """Forbid core dumps of this process and its children; `doctor` says what the shell allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
