"""How long the command line takes as a whole process."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ephemeralml.bench.measure import Section, Target, interleaved, row
from ephemeralml.bench.receipts import example_claims
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.receipt.issue import issue

_HELP_TARGET_S = 0.25
_VERIFY_TARGET_S = 0.35


def measure(*, quick: bool) -> Section:
    """Run ``--help`` and ``verify`` of one receipt, each in a process of its own, in turn."""
    key = PrivateKey.generate()
    with tempfile.TemporaryDirectory() as folder:
        receipt = Path(folder, "receipt.cbor")
        receipt.write_bytes(issue(example_claims(), key))
        samples = interleaved(
            {
                "interpreter": lambda: _run("-c", "pass"),
                "help": lambda: _run("-m", "ephemeralml", "--help"),
                "verify": lambda: _run(
                    "-m", "ephemeralml", "verify", str(receipt), "--public-key", key.public.raw.hex()
                ),
            },
            rounds=5 if quick else 15,
            warmup=1,
        )
    rows = (
        row("python -c pass, whole process", samples["interpreter"], scale=1, unit="s"),
        row("ephemeralml --help, whole process", samples["help"], scale=1, unit="s"),
        row("ephemeralml verify of one receipt, whole process", samples["verify"], scale=1, unit="s"),
    )
    targets = (
        Target("ephemeralml --help", rows[1].value, _HELP_TARGET_S, "s", at_most=True),
        Target("ephemeralml verify", rows[2].value, _VERIFY_TARGET_S, "s", at_most=True),
    )
    return Section(rows, targets)


def _run(*arguments: str) -> None:
    start = time.monotonic()
    # -P: nothing is imported from the working folder, as with the installed command.
    done = subprocess.run([sys.executable, "-P", *arguments], capture_output=True, check=False)  # noqa: S603 - ourselves
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode} after {time.monotonic() - start:.1f} s: {done.stderr[:200]!r}")
