"""The invariants that hold after every scenario, whatever was done to the processes and the parts.

I1 every accepted id is in the table, the outbox or the dead letters; I2 each id at most once; I3 the content
is what was said; I5 the outbox drains to zero once all is healed; I6 what is parked is counted and visible;
I7 nothing in the table that was never emitted; I8 no file is left behind. (I4, that callers are never held up,
is for the scenarios themselves, and the memory's part of I8 for the outages.)
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tests.faults import events
from tests.faults.ledger import Said


def violations(said: Said, rows: Iterable[Mapping[str, Any]], last: Mapping[str, Any]) -> list[str]:
    """Compare what was said with the table's rows and with the answer of the last process, which drained."""
    plain = [events.plain_row(dict(row)) for row in rows]
    stored = Counter(row["id"] for row in plain)
    letters = Counter(last["letters"])
    missing = said.accepted - stored.keys() - letters.keys()
    return [
        *_ids("I1 accepted and lost", missing if last["drained"] else ()),
        *_ids("I2 stored more than once", (record_id for record_id, times in stored.items() if times > 1)),
        *_ids("I2 both stored and parked", stored.keys() & letters.keys()),
        *_ids("I2 one event under two ids", _doubled(plain)),
        *_ids("I3 content altered", _altered(said, plain)),
        *_ids("I6 parked though its row is good", letters.keys() - said.bad),
        *_ids("I7 never emitted", (stored.keys() | letters.keys()) - said.attempted),
        *_of_the_last_process(last),
    ]


def _of_the_last_process(last: Mapping[str, Any]) -> list[str]:
    found = []
    counters = last["counters"]
    if not (last["drained"] and last["shut_down"]):
        found.append(f"I5 the outbox does not drain: {counters}")
    if (
        counters["submitted"] + counters["recovered"]
        != counters["succeeded"] + counters["failed"] + counters["pending"]
    ):
        found.append(f"I6 the counters do not add up: {counters}")
    if counters["pending"] != 0 or counters["failed"] > len(last["letters"]):
        found.append(f"I6 the counters do not tell what is left: {counters}, {len(last['letters'])} dead letters")
    if last["left"]:
        found.append(f"I8 files are left behind: {last['left'][:5]}")
    return found


def _altered(said: Said, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        row["id"]
        for row in rows
        if row["id"] in said.attempted and row != events.expected_row(row["id"], bad=row["id"] in said.bad)
    ]


def _doubled(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    contents = Counter(row["entity_id"] for row in rows)
    return [entity for entity, times in contents.items() if times > 1]


def _ids(what: str, ids: Iterable[str]) -> list[str]:
    found = sorted(ids)
    return [f"{what}: {len(found)}, such as {found[0]}"] if found else []
