"""What `ephemeralml kms policy apply` does: plan, diff, confirm, put, verify."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ephemeralml import clock
from ephemeralml.cli import console
from ephemeralml.cli import kms_policy_inputs as inputs
from ephemeralml.cli.exit_codes import Exit, ExitCode
from ephemeralml.keyrelease.policy import probe as probes
from ephemeralml.keyrelease.policy.apply import Patience, Run, StateFile, Step
from ephemeralml.keyrelease.policy.apply import apply as apply_run
from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.findings import Severity
from ephemeralml.keyrelease.policy.plan import (
    Phase,
    Plan,
    plan_addition,
    plan_again,
    plan_removal,
    plan_replacement,
    same_policy,
)
from ephemeralml.keyrelease.policy.simulate import World

if TYPE_CHECKING:
    import rich.console

    from ephemeralml.keyrelease.policy.ask import Whose
    from ephemeralml.keyrelease.policy.live import LiveKey
    from ephemeralml.keyrelease.policy.tuples import ReleaseTuple


@dataclass(frozen=True, slots=True)
class Options:
    """The command's options."""

    key: str
    phase: str | None
    tuples: list[Path] | None
    policy: Path | None
    parents: list[str]
    overlap_days: int
    verify: bool
    package: Path | None
    documents: list[Path] | None
    verify_profile: str | None
    verify_credentials: Path | None
    wait: float
    state: Path


def run(options: Options, *, plan_only: bool, yes: bool, endpoint: str | None) -> None:
    """Plan, show, ask, apply; or go on with an interrupted run."""
    images = _check(options)
    means = _Means(inputs.documents_of(options.documents), _whose(options))
    if options.phase is None and options.policy is None:
        _verify_alone(options, means, endpoint)
        return
    state = StateFile(options.state)
    with inputs.of_file(options.state):
        begun = state.load()
    live = inputs.live_key(options.key, endpoint)
    try:
        plan = _planned(options, images, live) if begun is None else _resumed(begun, options, images, live)
        if begun is None and not plan.changes:
            _show(live.arn, plan, [], "unchanged")
            return
        if plan_only:
            _show(live.arn, plan, [], "planned")
            return
        verify = _verifier(options, means, live, plan.after, endpoint)
        if not _confirmed(live.arn, plan, yes=yes, begun=begun):
            if begun is not None:
                console.current().warning(
                    f"the interrupted run stays in {options.state}; its policy may be in force: --verify asks the key"
                )
            _show(live.arn, plan, [], "declined", shown=True)
            return
        started = begun or Run(live.arn, plan.phase, plan.before.text, plan.after.text)
        rows = _applied(started, live, state, verify, options)
    finally:
        live.close()
    _warn_of_skipped(rows, asked=options.package is not None)
    _show(live.arn, plan, rows, "applied", images if plan.phase is Phase.ADD else (), shown=True)


def _applied(
    run: Run, live: "LiveKey", state: StateFile, verify: Callable[[], list[probes.Row]], options: Options
) -> list[probes.Row]:
    """Put the policy and verify it; whoever interrupts that is told where it stands."""
    try:
        with console.current().progress() as progress:
            return apply_run(run, live, state, verify, patience=Patience(seconds=options.wait), progress=progress)
    except KeyboardInterrupt:
        console.current().warning(
            "stopped half-way: the new policy may be in force, not verified; "
            f"the same command goes on from {state.path}"
        )
        raise


def _warn_of_skipped(rows: list[probes.Row], *, asked: bool) -> None:
    """Say which answers nobody asked for, and what they need."""
    skipped = [row for row in rows if row.outcome is probes.Outcome.SKIPPED]
    if skipped and not asked:
        console.current().warning("the key was asked nothing: give --verify-package and --verify-document")
    elif skipped:
        missing = "; ".join(f"{row.id}: {row.what}" for row in skipped)
        console.current().warning(f"not every answer was asked for ({missing}): give more --verify-document")


@dataclass(frozen=True, slots=True)
class _Means:
    """What the key is asked with, read before anything is changed."""

    documents: tuple[bytes, ...]
    whose: "Whose"


def _whose(options: Options) -> "Whose":
    from ephemeralml.keyrelease.policy.ask import MAX_CREDENTIALS_BYTES, Whose

    path = options.verify_credentials
    if path is None:
        return Whose(options.verify_profile)
    data = console.read_file(path, max_bytes=MAX_CREDENTIALS_BYTES, what="credentials")
    with inputs.of_file(path):
        return Whose.of_file(data, options.verify_profile)


def _check(options: Options) -> tuple["ReleaseTuple", ...]:
    """Refuse options that cannot be meant, and read the tuples."""
    if options.phase is not None and options.policy is not None:
        raise console.usage("--phase and --key-policy are both given", hint="a phase changes the present policy")
    if options.phase is None and options.policy is None and not options.verify:
        raise console.usage("give --phase add|remove, --key-policy FILE, or --verify to change nothing")
    if options.verify and options.package is None:
        raise console.usage("--verify needs --verify-package", hint="a wrapped key is what the key is asked for")
    if options.phase not in (None, "add", "remove"):
        raise console.usage(f"--phase {options.phase[:40] if options.phase else ''!r} is neither add nor remove")
    images = inputs.tuples_of(options.tuples)
    if options.phase is not None and len(images) != 1:
        raise console.usage("a phase is about one --tuple", hint="one image at a time, each with its own review")
    if options.phase is None and images:
        raise console.usage("--tuple goes with --phase", hint="the policy in the file says which images it is about")
    given = {
        "document": options.documents,
        "profile": options.verify_profile,
        "credentials": options.verify_credentials,
    }
    for name, value in given.items():
        if value and options.package is None:
            raise console.usage(
                f"--verify-{name} needs --verify-package",
                hint="a wrapped key of a package is what the key is asked for",
            )
    return images


def _planned(options: Options, images: tuple["ReleaseTuple", ...], live: "LiveKey") -> Plan:
    before, grants = live.policy(), live.grants()
    if options.policy is not None:
        return plan_replacement(before, inputs.policy_file(options.policy), grants=grants)
    if options.phase == "remove":
        return plan_removal(before, images[0], grants=grants)
    until = clock.now() + timedelta(days=options.overlap_days)
    return plan_addition(before, images[0], old_until=until, parents=options.parents, grants=grants)


def _resumed(begun: Run, options: Options, images: tuple["ReleaseTuple", ...], live: "LiveKey") -> Plan:
    """Return the plan of an interrupted run, if it is what the command asks for."""
    hint = "give the command that was interrupted, or remove the state file and plan again"
    if begun.key != live.arn:
        raise console.usage(f"the state file is about {begun.key}", hint="give another --state-file for this key")
    before, after = KeyPolicy.parse(begun.before), KeyPolicy.parse(begun.after)
    if begun.phase.value != (options.phase or Phase.REPLACE.value):
        raise console.usage(f"the state file is about another change: {begun.phase.value}", hint=hint)
    if options.policy is not None and not same_policy(inputs.policy_file(options.policy).text, after.text):
        raise console.usage("the state file is about another policy than --key-policy", hint=hint)
    console.current().note(f"going on with an interrupted run ({begun.phase.value}, {begun.step.value})")
    if begun.step is Step.ROLLING_BACK:
        return Plan(begun.phase, before, after, ())
    return plan_again(begun.phase, before, after, images, grants=live.grants())


def _confirmed(arn: str, plan: Plan, *, yes: bool, begun: Run | None) -> bool:
    """Show the change before it is made, and ask whether it is meant."""
    if begun is not None and begun.step is Step.ROLLING_BACK:
        return True
    if not yes and not sys.stdin.isatty():
        raise console.usage("there is nobody to ask", hint="look at --plan-only, then add --yes")
    for line in [*plan.diff(), *_findings(plan, infos=not yes)]:
        console.say(console.visible(line))
    for line in plan.consequences():
        console.current().warning(line)
    return yes or typer.confirm(f"put this policy on {arn}?", err=True)


def _findings(plan: Plan, *, infos: bool = False) -> list[str]:
    return [
        f"{one.severity.value} {one.rule.name}: {one.path}"
        for one in plan.findings
        if infos or one.severity is not Severity.INFO
    ]


def _verify_alone(options: Options, means: _Means, endpoint: str | None) -> None:
    """Ask the key as it is; exit 3 for a wrong answer, 6 for a question that could not be put."""
    live = inputs.live_key(options.key, endpoint)
    try:
        policy = live.policy()
        rows = _verifier(options, means, live, policy, endpoint)()
        arn = live.arn
    finally:
        live.close()
    skipped = any(row.outcome is probes.Outcome.SKIPPED for row in rows)
    verdict = "wrong" if probes.failed(rows) else "incomplete" if skipped else "ok"
    document = {
        "schema": "ephemeralml.kms-verify/1",
        "key": arn,
        "verdict": verdict,
        "answers": [row.to_json() for row in rows],
    }
    lines = [*_rows(rows), f"{verdict}: {arn}"]
    console.current().result(
        document, lambda out: out.print("\n".join(map(console.visible, lines)), markup=False, soft_wrap=True)
    )
    if verdict != "ok":
        raise Exit(ExitCode.REJECTED if verdict == "wrong" else ExitCode.INCOMPLETE)


def _rows(rows: list[probes.Row]) -> list[str]:
    return [f"{row.id:<4}{row.outcome.value:<9}{row.what}  {row.actual}".rstrip() for row in rows]


def _verifier(
    options: Options, means: _Means, live: "LiveKey", policy: KeyPolicy, endpoint: str | None
) -> Callable[[], list[probes.Row]]:
    """Return what asks the key after the change, having found out that it can.

    Raises:
        UnavailableError: The credentials that are to ask are none, or are refused.
    """
    if options.package is None:
        return lambda: probes.skipped("no package to ask with")
    ciphertext, context = inputs.wrapped_for(options.package, live.arn)
    asker = _Asker(live, endpoint, means.whose)
    asker.check()
    grants = live.grants()

    def verify() -> list[probes.Row]:
        world = World(policy, live.arn, live.account, clock.now(), grants)
        probe = probes.Probe(ciphertext, context, asker.principal(policy), means.documents)
        return probes.run(probe, world, asker.decrypt)

    return verify


@dataclass(frozen=True, slots=True)
class _Asker:
    """Calls Decrypt as the host's role, and keeps nothing of the answer but its name."""

    live: "LiveKey"
    endpoint: str | None
    whose: "Whose"

    def check(self) -> None:
        """Find out whether there are credentials that the service takes."""
        from ephemeralml.keyrelease.policy.ask import require_credentials

        require_credentials(self.live.arn, endpoint=self.endpoint, whose=self.whose)

    def principal(self, policy: KeyPolicy) -> str:
        """Return whom the policy releases to: the role these credentials are said to be of."""
        from ephemeralml.keyrelease.policy.cast import Cast

        return Cast.of(policy, self.live.account).parent

    def decrypt(self, fields: Any) -> str:
        """Send one Decrypt."""
        from ephemeralml.keyrelease.policy.ask import ask_decrypt

        return ask_decrypt(fields, endpoint=self.endpoint, whose=self.whose)


def _show(
    arn: str,
    plan: Plan,
    rows: list[probes.Row],
    result: str,
    added: tuple["ReleaseTuple", ...] = (),
    *,
    shown: bool = False,
) -> None:
    """Print the result: the change if it was not *shown* yet, the answers, and what client policies need now."""
    document = {
        "schema": "ephemeralml.kms-apply-result/1",
        "key": arn,
        "phase": plan.phase.value,
        "result": result,
        "diff": plan.diff(),
        "consequences": plan.consequences(),
        "findings": [finding.to_json() for finding in plan.findings],
        "answers": [row.to_json() for row in rows],
        "client_policy_entries": [one.to_json() for one in added],
    }

    def text(out: "rich.console.Console") -> None:
        lines = [] if shown else [*plan.diff(), *_findings(plan), *plan.consequences()]
        lines += _rows(rows)
        lines += [f"{'nothing was changed' if result == 'declined' else result}: {arn}"]
        lines += ["clients need this entry in their policy too: `ephemeralml policy init`"] if added else []
        out.print("\n".join(map(console.visible, lines)), markup=False, soft_wrap=True)

    console.current().result(document, text)
