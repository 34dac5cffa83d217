"""The stack's own process: it says how to reach it, then does what each line on stdin says, until there is none."""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.stack import Stack
from tests.stack.faults import Delay, Hang, Place


def main() -> None:
    with Stack() as stack:
        stack.gateway.keep_requests(False)
        _answer(url=stack.url, key=stack.service_key, dsn=stack.dsn())
        for line in sys.stdin:
            _obey(stack, json.loads(line))
            _answer()


def _obey(stack: Stack, said: dict[str, Any]) -> None:
    match said["command"]:
        case "slow":
            stack.gateway.inject(Delay(said["seconds"], at=Place.COMMITTED), times=None)
        case "hang":
            stack.gateway.inject(Hang(Place.REQUEST_BODY), times=None)
        case "refuse":
            stack.gateway.refuse()
        case "clear":
            stack.gateway.clear()
            stack.gateway.keep_requests(False)
        case unknown:
            raise ValueError(unknown)


def _answer(**said: str) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
