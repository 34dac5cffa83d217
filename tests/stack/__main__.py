"""Start the stack by hand, print how to reach it, and keep it until Ctrl-C.

A benchmark starts it in this way too, so that the gateway does not share its interpreter.
"""

import argparse
import json
import signal
from contextlib import suppress

from tests.stack.faults import Delay, Place
from tests.stack.npm import postgrest_binary
from tests.stack.stack import Stack


def main() -> None:
    options = _parse_options()
    if options.install_only:
        postgrest_binary()
        return
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    with Stack() as stack:
        stack.gateway.keep_requests(False)
        if options.delay:
            stack.gateway.inject(Delay(options.delay, at=Place.COMMITTED), times=None)
        print(json.dumps(_access(stack), indent=None if options.json else 2), flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.stack", description=__doc__)
    parser.add_argument("--install-only", action="store_true", help="install PostgREST and start nothing")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="added to every response")
    parser.add_argument("--json", action="store_true", help="print the addresses and keys on one line")
    return parser.parse_args()


def _access(stack: Stack) -> dict[str, str]:
    return {
        "SUPABASE_URL": stack.url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_key,
        "SUPABASE_SECRET_KEY": stack.secret_key,
        "SUPABASE_ANON_KEY": stack.anon_key,
        "AUDIT_WRITER_TOKEN": stack.token("audit_writer"),
        "DATABASE_URL": stack.dsn(),
    }


if __name__ == "__main__":
    main()
