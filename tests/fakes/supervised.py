"""A child for the supervisor's tests: does what its first argument says."""

import json
import os
import signal
import subprocess
import sys
import time


def _ready(**more: object) -> None:
    print(json.dumps({"ready": True, "pid": os.getpid(), **more}, indent=2), flush=True)


def _hold() -> None:
    while True:
        time.sleep(60)


def main(what: str, *rest: str) -> None:
    match what:
        case "serve":
            _ready(arguments=rest, environment=sorted(os.environ))
            print("hello\x1b[31m", file=sys.stderr, flush=True)
            _hold()
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _ready()
            _hold()
        case "clean":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            _ready()
            _hold()
        case "grandchild":
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            _ready(grandchild=child.pid)
            _hold()
        case "fail":
            print("starting", file=sys.stderr)
            print("error: no such package", file=sys.stderr)
            print("hint: make one", file=sys.stderr)
            sys.exit(int(rest[0]))
        case "fail-json":
            print("error: bad digest", file=sys.stderr, flush=True)
            print(json.dumps({"schema": "ephemeralml.error/1", "error": "bad digest"}), flush=True)
            time.sleep(0.1)
            sys.exit(4)
        case "die-later":
            _ready()
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        case "silent":
            _hold()
        case "talk":
            _ready()
            for number in range(5_000):
                print("x" * 100, number)
            sys.stdout.flush()
            print("talked", file=sys.stderr, flush=True)
            _hold()
        case "flood":
            print("{" + "x" * 3_000_000, flush=True)
            _hold()
        case "supervise":
            _supervise()


def _supervise() -> None:
    """Be a supervisor that its test kills without warning."""
    from ephemeralml.host.supervisor import Command, Supervisor

    with Supervisor() as supervisor:
        document = supervisor.start(Command("inner", ("stubborn",), module="tests.fakes.supervised"))["inner"]
        _ready(inner=document["pid"])
        _hold()


if __name__ == "__main__":
    main(*sys.argv[1:])
