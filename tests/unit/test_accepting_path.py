"""The accepting path takes no lock: a call that waits for one waits for the interpreter behind every other thread."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import otel_audit_exporter

ROOT: Final = Path(otel_audit_exporter.__file__).parent

# What a call goes through, from `audit_event()` to the frame in the log and the record in the SDK's hands.
PATH: Final[dict[str, tuple[str, ...]]] = {
    "pipeline/intake.py": (
        "EventIntake.emit",
        "EventIntake.submit",
        "EventIntake._accept",
        "EventIntake._send",
        "EventIntake._seen",
        "EventIntake._hand_over",
        "EventIntake._submit_elsewhere",
        "EventIntake._submit",
        "EventIntake._compare_with_earlier",
    ),
    "delivery/channel.py": ("DeliveryChannel.accept",),
    "pipeline/destinations.py": ("Route.deliver_more",),
    "delivery/pool_member.py": ("PoolMember.wake", "PoolMember.deliver_more"),
    "delivery/sender_pool.py": ("SenderPool.serve", "SenderPool.watch"),
    "event/routing.py": ("*",),
    "delivery/relay.py": ("Relay.wake", "Relay.deliver_more"),
    "delivery/housekeeper.py": ("Housekeeper.call",),
    "delivery/receipts.py": ("PendingReceipt.__init__",),
    "outbox/log.py": (
        "OutboxLog.append",
        "OutboxLog._ask_for_next",
        "OutboxLog._one_more",
        "OutboxLog._new_stripe",
        "OutboxLog._segment",
        "OutboxLog.free_segments",
    ),
    "outbox/stripe.py": ("Stripe.append", "Stripe.next_segment", "Stripe._go_on_in", "Stripe._seal"),
    "outbox/frames.py": ("checksum", "frame_bytes"),
    "outbox/segment.py": ("MemorySegment.put", "MappedSegment.put", "WrittenSegment.put", "pwrite", "_write_all"),
    "event/validation.py": ("EventValidator.*", "_*"),
    "event/json/encoder.py": ("*",),
    "event/json/fallback_encoder.py": ("*",),
    "event/json/strings.py": ("*",),
    "event/redaction.py": ("*",),
    "event/serialization.py": ("assemble",),
    "event/context.py": ("current_scope", "overlay"),
    "event/log_record.py": ("AuditLogRecord.*", "AuditReadWriteLogRecord.*"),
    "runtime/fork_safety.py": ("renew_if_forked",),
}

# What a call may come to now and then, and where it may wait: each is there, and takes a lock.
SLOW: Final[dict[str, tuple[str, ...]]] = {
    "delivery/log_set.py": (
        "LogSet.open_own",
        "LogSet.open_after_end",
    ),  # a forked child's first event, or after the end
    "pipeline/destinations.py": ("Destinations.find",),  # a destination's first event
    "outbox/ended.py": ("EndedFile.note",),
    "outbox/stripe.py": (
        "Stripe._make_now",
    ),  # a segment is full, and there is none yet to go on in: it waits for the disk
    "outbox/group_commit.py": ("GroupCommit._append_with_others",),  # fsync
    "outbox/space.py": ("Quota.take",),
    "runtime/fork_safety.py": ("_renew",),  # a fork that ran no hook
}

_NO_LOCKS: Final = ("suppress",)
_WAITS: Final = ("acquire", "wait", "join", "wait_for", "sleep")


def functions(module: str) -> dict[str, ast.AST]:
    """Return the functions of a module by class and name."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}": one for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


def chosen(module: str, names: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
    known = functions(module)
    for name in names:
        if name.endswith("*"):
            yield from ((one, node) for one, node in known.items() if one.startswith(name[:-1]))
        else:
            assert name in known, f"{module} has no {name} any more: say what a call goes through instead"
            yield name, known[name]


def locks(function: ast.AST) -> list[str]:
    """Return the statements of a function that may wait for another thread."""
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.With | ast.AsyncWith):
            used = [item.context_expr for item in node.items]
            names = [ast.unparse(one.func if isinstance(one, ast.Call) else one) for one in used]
            found += [f"with {name}" for name in names if name not in _NO_LOCKS]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_text = isinstance(node.func.value, ast.Constant)  # which is joined, too
            found += [ast.unparse(node.func)] if node.func.attr in _WAITS and not is_text else []
    return found


@pytest.mark.parametrize("module", PATH)
def test_what_every_call_goes_through_takes_no_lock(module: str) -> None:
    taken = {name: locks(node) for name, node in chosen(module, PATH[module])}
    assert taken
    assert {name: found for name, found in taken.items() if found} == {}


@pytest.mark.parametrize("module", SLOW)
def test_every_place_listed_as_waiting_takes_a_lock(module: str) -> None:
    for name, node in chosen(module, SLOW[module]):
        assert locks(node), f"{module}: {name} takes no lock any more: it belongs into PATH"


@pytest.mark.parametrize("body", ["with self.lock: pass", "self._lock.acquire()", "with a, self.b(): pass", "x.wait()"])
def test_a_lock_would_be_found(body: str) -> None:
    assert locks(ast.parse(f"def f(self):\n    {body}"))


@pytest.mark.parametrize("body", ["with suppress(KeyError): pass", "b''.join(x)", "', '.join(x)", "self.put(1)"])
def test_what_is_none_is_not_taken_for_one(body: str) -> None:
    assert not locks(ast.parse(f"def f(self):\n    {body}"))
