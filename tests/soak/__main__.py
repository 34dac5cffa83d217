"""Kill 1,000 workers, which say a million events, while the gateway goes wrong, then 500 that say events to many trails
and databases, then an outage of 200,000 events, then deliver what crowds of dead processes have left, then hold five
million events, then freeze functions after their answers.

Every round has a table and an outbox directory of its own; the first that is found broken is kept, and ends
the run with status 1. "0 failures in n" bounds the rate at about 3/n.
"""

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.faults import scenario
from tests.faults.events import BAD_ACTION
from tests.faults.failpoints import FAILPOINTS
from tests.faults.outages import NOT_STORED, PERHAPS_STORED, assert_outage_survived
from tests.frozen.instances import SERVERS, SINKS, missing_after_freeze
from tests.soak.large_backlog import hold_backlog
from tests.soak.left_behind import deliver_orphans, drain_full_volume
from tests.stack import Stack
from tests.support.otlp_receiver import Receiver
from tests.trails.kills import found_after_kills

_KILLS_PER_ROUND = 60
_KILLS = 1000
_EVENTS = 1_000_000
_OUTAGE_EVENTS = 200_000
_FROZEN = 200
_ORPHANS = 2000
_PENDING = 5_000_000
_VOLUME_WORKERS = 32
_TENANT_KILLS = 500
_TENANT_ROUNDS = ((3, 0.3), (3, 1.0), (20, 0.5), (60, 1.0), (500, 3.0))  # databases, and the longest life in seconds


@dataclass
class Figures:
    kills: int = 0
    attempted: int = 0
    accepted: int = 0
    stored: int = 0
    parked: int = 0
    failpoints: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.attempted} attempted, {self.accepted} accepted, {self.stored} stored, "
            f"{self.parked} parked, {len(self.failpoints)} of {len(FAILPOINTS)} failpoints reached: "
            "0 lost, 0 doubled, 0 altered"
        )


def main() -> int:
    options = _parse_options()
    chance, figures = Random(options.seed), Figures()
    print(f"seed {options.seed}", flush=True)
    started = time.monotonic()
    with Stack() as stack:
        stack.gateway.keep_requests(False)
        while not _is_enough(figures, options.minutes, time.monotonic() - started):
            broken = _round(stack, chance.randrange(2**31), figures)
            if broken:
                print(f"BROKEN, with seed {options.seed}, after {figures.kills} kills:", *broken, sep="\n  ")
                return 1
            print(figures, flush=True)
        if not _tenants(chance, options.tenant_kills):
            return 1
        if options.outage:
            _outage(stack, options.outage)
        whole = _crowds(options)
        return 0 if _frozen(stack, options.frozen) and whole else 1


def _is_enough(figures: Figures, minutes: float | None, seconds: float) -> bool:
    if minutes is not None:
        return seconds >= 60 * minutes
    return figures.kills >= _KILLS and figures.accepted >= _EVENTS


def _crowds(options: argparse.Namespace) -> bool:
    """Deliver what crowds of killed processes have left, and hold a large backlog; tell whether all of it held."""
    shown = [deliver_orphans(options.orphans)] if options.orphans else []
    shown += [drain_full_volume(options.volume)] if options.volume else []
    shown += [hold_backlog(options.pending)] if options.pending else []
    for words, _ in shown:
        print(words, flush=True)
    return all(is_well for _, is_well in shown)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--minutes", type=float, help="kill for so long, instead of until there are enough")
    parser.add_argument("--tenant-kills", type=int, default=_TENANT_KILLS, help="kills of who names databases; 0: none")
    parser.add_argument("--outage", type=int, default=_OUTAGE_EVENTS, help="events of the outage; 0: none")
    parser.add_argument("--frozen", type=int, default=_FROZEN, help="invocations of each server and sink; 0: none")
    parser.add_argument("--pending", type=int, default=_PENDING, help="events that wait in one process; 0: none")
    parser.add_argument("--orphans", type=int, default=_ORPHANS, help="logs of killed processes; 0: none")
    parser.add_argument("--volume", type=int, default=_VOLUME_WORKERS, help="workers that fill a volume; 0: none")
    return parser.parse_args()


def _tenants(chance: Random, kills: int) -> bool:
    """Kill processes that say events to few and to many databases: none may be lost, doubled or in another's table."""
    each, more = divmod(kills, len(_TENANT_ROUNDS))
    for number, (databases, longest) in enumerate(_TENANT_ROUNDS):
        count = each + (number < more)
        if not count:
            continue
        directory = Path(tempfile.mkdtemp(prefix="audit-soak-"))
        found = found_after_kills(directory, chance, kills=count, databases=databases, longest=longest)
        print(f"{count} kills, two trails in {databases} databases: {found}", flush=True)
        if not found.is_whole:
            print(f"BROKEN, kept: {directory}")
            return False
        shutil.rmtree(directory)
    return True


def _frozen(stack: Stack, invocations: int) -> bool:
    """Freeze instances after their answer and kill them: none may be lost with the profile, some must be without."""
    whole = True
    for server in SERVERS if invocations else ():
        for sink in SINKS:
            table = stack.create_table()
            with Receiver() as receiver:
                with_it = {"OTEL_AUDIT_PROFILE": "ephemeral", "OTEL_AUDIT_RESPONSE_DEADLINE": "60000"}
                without = {"OTEL_AUDIT_OUTBOX": "memory"}
                lost, lost_without = (
                    missing_after_freeze(server, sink, invocations, stack, table, receiver, **settings)
                    for settings in (with_it, without)
                )
            table.drop()
            print(
                f"frozen, {server} to {sink}: {lost} of {invocations} lost, {lost_without} without the profile",
                flush=True,
            )
            whole = whole and lost == 0 and lost_without > 0
    return whole


def _round(stack: Stack, seed: int, figures: Figures) -> list[str]:
    """Kill some workers on the real stack, every other time through a gateway that goes wrong at random."""
    chance = Random(seed)
    lives = chance.choice((scenario.SHORT_LIVES, scenario.LONG_LIVES, scenario.LONG_LIVES))
    directory = Path(tempfile.mkdtemp(prefix="audit-soak-"))
    if chance.random() < 0.25:
        scene = scenario.on_sqlite(directory, outbox=chance.choice(("disk", "fsync")))
        return _checked(scene, scenario.kill_workers(scene, seed, _KILLS_PER_ROUND, lives), seed, figures)
    table = stack.create_table()
    table.alter(f"add constraint no_bad_action check (action <> '{BAD_ACTION}')")
    scene = scenario.on_stack(
        directory, stack, table, outbox=chance.choice(("disk", "disk", "fsync")), export_timeout_millis=2000
    )
    with _faulty(stack, chance):
        deaths = scenario.kill_workers(scene, seed, _KILLS_PER_ROUND, lives)
    broken = _checked(scene, deaths, seed, figures)
    table.drop()
    return broken


@contextmanager
def _faulty(stack: Stack, chance: Random) -> Iterator[None]:
    if chance.random() < 0.5:
        for fault in (*NOT_STORED.values(), *PERHAPS_STORED.values()):
            stack.gateway.inject(fault, times=chance.randrange(1, 8), when=lambda _: chance.random() < 0.02)
    yield
    stack.gateway.clear()
    stack.gateway.keep_requests(False)


def _checked(scene: scenario.Scenario, deaths: list[scenario.Death], seed: int, figures: Figures) -> list[str]:
    figures.kills += len(deaths)
    broken = scene.violations()
    if statuses := {death.status for death in deaths} - {-9}:
        broken.append(f"a worker ended by itself: {statuses}")
    figures.failpoints.update(death.failpoint for death in deaths if death.fired and death.failpoint)
    if broken:
        return [*broken, f"seed of the round: {seed}", f"kept: {scene.directory}"]
    said = scene.said
    figures.attempted += len(said.attempted)
    figures.accepted += len(said.accepted)
    figures.stored += len(scene.rows())
    figures.parked += len(scene.last["letters"])
    scene.remove()
    return []


def _outage(stack: Stack, events: int) -> None:
    table = stack.create_table()
    scene = scenario.on_stack(Path(tempfile.mkdtemp(prefix="audit-soak-")), stack, table)
    grown, longest = assert_outage_survived(stack, scene, events)
    print(f"an outage of {events} events: {grown:.1f} MiB grown, longest call {longest * 1000:.1f} ms, all stored once")
    scene.remove()


if __name__ == "__main__":
    sys.exit(main())
