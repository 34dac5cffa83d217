"""Scripts that end, each in its own way: `python -m tests.faults.ends <name>` with a job on standard input.

What they emit is not sent before the end, unless they say so: the batch processor's delay is set to a minute.
"""

import _thread
import atexit
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import otel_audit_exporter as audit
from tests.faults.ledger import Ledger
from tests.faults.worker import Job, emit_many, emit_one, new_id

_SIGNALS = 300


def sigterm(job: Job, ledger: Ledger) -> None:
    emit_many(ledger, job)
    _say("ready")
    signal.pause()


def sigterm_in_a_busy_loop(job: Job, ledger: Ledger) -> None:
    threading.Thread(target=_emit_for_ever, args=(ledger,), daemon=True).start()
    emit_many(ledger, job)
    _say("ready")
    _emit_for_ever(ledger)


def sigterm_with_a_handler_of_the_application(job: Job, ledger: Ledger) -> None:
    def end(signum: int, frame: FrameType | None) -> None:
        emit_one(ledger, new_id())
        sys.exit(7)

    audit.shutdown_audit()  # the first one had nothing to handle yet
    signal.signal(signal.SIGTERM, end)
    audit.configure_audit(**job.options)
    sigterm(job, ledger)


def sys_exit(job: Job, ledger: Ledger) -> None:
    emit_many(ledger, job)
    sys.exit(3)


def end_of_script(job: Job, ledger: Ledger) -> None:
    emit_many(ledger, job)


def uncaught_exception(job: Job, ledger: Ledger) -> None:
    emit_many(ledger, job)
    raise RuntimeError("nobody catches this")


def os_exit(job: Job, ledger: Ledger) -> None:
    emit_many(ledger, job)
    os._exit(5)


def atexit_handlers_that_emit(job: Job, ledger: Ledger) -> None:
    atexit.register(emit_one, ledger, new_id())
    emit_many(ledger, job)


def shutdown_call(job: Job, ledger: Ledger) -> None:
    """Shut down within `visits` seconds, and emit once more."""
    emit_many(ledger, job)
    began = time.monotonic()
    delivered = audit.shutdown_audit(1000 * job.visits)
    _say(f"{delivered} {time.monotonic() - began:.2f}")
    emit_one(ledger, new_id())


def shutdown_under_load(job: Job, ledger: Ledger) -> None:
    """Shut down while threads emit: what they are told is accepted is kept, before and after."""
    threads = [threading.Thread(target=emit_many, args=(ledger, job)) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    audit.shutdown_audit(5000)
    for thread in threads:
        thread.join()


def multiprocessing_child(job: Job, ledger: Ledger, method: str) -> None:
    emit_one(ledger, new_id())
    multiprocessing.set_start_method(method, force=True)
    multiprocessing_child_that_configures(job)


def forked_child_of_an_unconfigured_parent(job: Job, ledger: Ledger) -> None:
    audit.shutdown_audit()
    multiprocessing.set_start_method("fork", force=True)
    multiprocessing_child_that_configures(job)


def signal_handlers_that_emit(job: Job, ledger: Ledger) -> None:
    """A handler runs in the main thread inside whatever lock that holds, and emits there."""
    handled = []
    within: list[int] = []

    def emit(signum: int, frame: FrameType | None) -> None:
        handled.append(signum)
        if len(within) < 20:  # on a busy machine signals come faster than they are handled, each within the last
            within.append(signum)
            emit_one(ledger, new_id())
            within.pop()

    signal.signal(signal.SIGUSR1, emit)
    done = threading.Event()
    threading.Thread(target=_send_signals, args=(done,), daemon=True).start()
    while not done.is_set():
        emit_one(ledger, new_id())
        audit.get_audit_stats()
    _say(str(len(handled) > 0))


def forks_under_load(job: Job, ledger: Ledger) -> None:
    """Fork again and again while threads emit and deliver: parent and children both go on emitting."""
    stop = threading.Event()
    threads = [threading.Thread(target=_emit_until, args=(ledger, stop), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    statuses = [_fork_one(ledger) for _ in range(job.visits)]
    stop.set()
    for thread in threads:
        thread.join()
    sys.exit(max(statuses))


def parent_killed_before_its_child(job: Job, ledger: Ledger) -> None:
    """The parent is gone, and its forked child takes over the file that it has seen open."""
    emit_many(ledger, job)
    if os.fork() == 0:
        parent = os.getppid()
        emit_one(ledger, new_id())
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            time.sleep(0.01)
        while not (audit.get_audit_pipeline().exporters[0].channel.adopt_orphans() and audit.flush_audit(20_000)):
            time.sleep(0.01)
        os._exit(0)
    signal.pause()


def interrupted(job: Job, ledger: Ledger) -> None:
    """KeyboardInterrupt strikes anywhere in a call, again and again; the next calls work."""
    stop, interruptions = threading.Event(), _Interruptions()
    sender = threading.Thread(target=_interrupt_until, args=(stop,))
    sender.start()
    for _ in range(100):
        interruptions.strike_once_in(lambda: emit_one(ledger, new_id()))
    stop.set()
    sender.join()
    emit_one(ledger, new_id())


def multiprocessing_child_that_configures(job: Job) -> None:
    child = multiprocessing.Process(target=_child, args=(job.to_json(),))
    child.start()
    child.join(60)
    sys.exit(child.exitcode)


def imports_of_a_delivery(job: Job, ledger: Ledger) -> None:
    """Say which modules are imported after the configuration: a fork in the middle of that would hang a child."""
    before = set(sys.modules)
    emit_many(ledger, job)
    audit.flush_audit(30_000)
    _say(",".join(sorted(set(sys.modules) - before)))


def outage(job: Job, ledger: Ledger) -> None:
    """Emit through an outage, say how much memory it took and how long the longest call, then deliver."""
    emit_one(ledger, new_id())
    audit.flush_audit(500)
    before, longest = _resident_mib(), 0.0
    for _ in range(job.visits - 1):
        began = time.monotonic()
        emit_one(ledger, new_id())
        longest = max(longest, time.monotonic() - began)
    _say(f"{_resident_mib() - before:.1f} {longest:.3f}")
    sys.stdin.readline()
    _say(str(audit.flush_audit(600_000)))


def full_disk(job: Job, ledger: Ledger) -> None:
    """Fill the disk, say so, and drain while it is still full (visits=2: the limit on a file's size, lifted first)."""
    filler = Path(job.options["outbox_dir"]).parent / "filler"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if job.visits == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limit[1]))
    else:
        _fill(filler, but=600_000)
    for _ in range(20_000):
        try:
            emit_one(ledger, new_id())
        except audit.OutboxError as error:
            _say(f"refused {type(error).__name__} {error}")
            break
    sys.stdin.readline()
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    delivered = audit.flush_audit(60_000)
    filler.unlink(missing_ok=True)
    emit_one(ledger, new_id())
    _say(str(delivered and audit.flush_audit(60_000)))


def damaged_in_use(job: Job, ledger: Ledger) -> None:
    """Emit from threads while somebody damages the outbox file; then say what was delivered and lost."""
    threading.excepthook = lambda told: os._exit(9)  # a call has raised
    emit_many(ledger, job)
    stop = threading.Event()
    threads = [threading.Thread(target=_emit_until, args=(ledger, stop)) for _ in range(3)]
    for thread in threads:
        thread.start()
    _say("ready")
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    delivered = audit.flush_audit(60_000)
    stats = audit.get_audit_stats()
    _say(f"{delivered} {stats.failed} {stats.submitted + stats.recovered == stats.succeeded + stats.failed}")


def _fill(path: Path, but: int) -> None:
    with path.open("wb") as file:
        left = shutil.disk_usage(path.parent).free - but
        file.write(b"x" * left)


def _resident_mib() -> float:
    """The memory now, or where the system does not tell, the most that it was."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _child(job_text: str) -> None:
    job = Job.from_json(job_text)
    audit.configure_audit(**job.options)  # the parent's is in force already where this is forked
    emit_many(Ledger(Path(job.ledgers)), job)


def _fork_one(ledger: Ledger) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for _ in range(5):
                emit_one(ledger, new_id())
            code = 0 if audit.flush_audit(60_000) else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _send_signals(done: threading.Event) -> None:
    main = threading.main_thread().ident
    assert main is not None
    for _ in range(_SIGNALS):
        signal.pthread_kill(main, signal.SIGUSR1)
        time.sleep(0.001)
    done.set()


def _interrupt_until(stop: threading.Event) -> None:
    while not stop.wait(0.002):
        _thread.interrupt_main()


class _Interruptions:
    """Turns an interrupt into `KeyboardInterrupt` inside a call only, as one beside it would end this script."""

    def __init__(self) -> None:
        self._may_strike = False
        signal.signal(signal.SIGINT, self._handle)

    def strike_once_in(self, call: Callable[[], object]) -> None:
        """Make the call again and again until one of them is interrupted."""
        try:
            self._may_strike = True
            while True:
                call()
        except KeyboardInterrupt:
            return

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._may_strike:
            self._may_strike = False
            raise KeyboardInterrupt


def _emit_for_ever(ledger: Ledger) -> None:
    while True:
        emit_one(ledger, new_id())


def _emit_until(ledger: Ledger, stop: threading.Event) -> None:
    while not stop.is_set():
        emit_one(ledger, new_id())
        time.sleep(0.0005)


def _say(text: str) -> None:
    print(text, flush=True)


ENDS: dict[str, Callable[[Job, Ledger], Any]] = {
    function.__name__: function
    for function in (
        sigterm,
        sigterm_in_a_busy_loop,
        sigterm_with_a_handler_of_the_application,
        sys_exit,
        end_of_script,
        uncaught_exception,
        os_exit,
        atexit_handlers_that_emit,
        shutdown_call,
        shutdown_under_load,
        forked_child_of_an_unconfigured_parent,
        signal_handlers_that_emit,
        forks_under_load,
        parent_killed_before_its_child,
        interrupted,
        imports_of_a_delivery,
        full_disk,
        damaged_in_use,
        outage,
    )
}
ENDS |= {
    f"multiprocessing_{method}": lambda job, ledger, method=method: multiprocessing_child(job, ledger, method)  # type: ignore[misc]
    for method in ("fork", "spawn", "forkserver")
}


def main() -> None:
    job = Job.from_json(sys.stdin.readline())
    audit.configure_audit(**job.options)
    ENDS[sys.argv[1]](job, Ledger(Path(job.ledgers)))


if __name__ == "__main__":
    main()
