"""Outages that the tests and `make soak` share."""

from tests.faults import scenario
from tests.faults.scripts import started
from tests.stack import Stack, faults
from tests.stack.faults import Answer, Close, Drip, Fault, Hang, Place, ReplyPart, Reset

NOT_STORED: dict[str, Fault] = {
    "200 with a page": faults.captive_portal(),
    "200 and nothing": faults.empty_ok(),
    "204": faults.no_content(),
    "301": faults.redirect(301, "/elsewhere"),
    "302": faults.redirect(302, "/elsewhere"),
    "307": faults.redirect(307, "/elsewhere"),
    "429": faults.too_many_requests(),
    "429 with nonsense": faults.too_many_requests("soon"),
    "502 with a page": faults.bad_gateway_page(),
    "503 as text": faults.unavailable_text(),
    "503 as JSON": faults.unavailable_json(),
    "500": faults.internal_error(),
    "540": faults.project_paused(),
    "401": faults.invalid_api_key(),
    "404": faults.not_found(),
    "reset before the body": Reset(Place.REQUEST_HEAD),
    "reset before the commit": Reset(Place.REQUEST_BODY),
    "closed before the commit": Close(Place.REQUEST_BODY),
    "hanging before the commit": Hang(Place.REQUEST_BODY),
}
PERHAPS_STORED: dict[str, Fault] = {
    "reset after the commit": Reset(Place.COMMITTED),
    "closed after the commit": Close(Place.COMMITTED),
    "closed in the reply's head": Close(Place.REPLY_HEAD),
    "closed in the reply's body": Close(Place.REPLY_BODY),
    "hanging after the commit": Hang(Place.COMMITTED),
    "a head that drips": Drip(0.2, ReplyPart.HEAD),
    "a page over a stored row": Answer(faults.bad_gateway_page().reply, after_commit=True),
}


def assert_outage_survived(stack: Stack, outage: scenario.Scenario, count: int) -> tuple[float, float]:
    """Emit `count` events in a process of its own while the database is away; return MiB grown, longest call."""
    stack.postgres.stop()
    with started("outage", outage, visits=count) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        said = process.stdout.readline().split()
        grown, longest = float(said[0]), float(said[1])
        stack.postgres.start()
        process.stdin.write("healed\n")
        process.stdin.flush()
        assert process.stdout.readline() == "True\n"
        assert process.wait(60) == 0
    assert grown < 64
    assert longest < 10  # the time of one attempt: no call waited for one
    assert len(outage.said.accepted) == count
    assert outage.violations() == []
    return grown, longest
