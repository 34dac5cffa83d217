"""The PostgREST server, as Supabase runs it."""

import signal
from pathlib import Path

import httpx

from tests.stack.leash import LeashedServer
from tests.stack.npm import postgrest_binary
from tests.stack.ports import HOST, free_port
from tests.stack.starting import wait_until_started

SCHEMAS = ("public", "audit", "marker")


class PostgREST:
    """The server: start, stop, kill, pause and reload."""

    def __init__(self, directory: Path, *, dsn: str, jwt_secret: str) -> None:
        self.log = directory / "postgrest.log"
        self.port = free_port()
        self._admin_url = f"http://{HOST}:{(admin_port := free_port())}"
        self._server: LeashedServer | None = None
        self._environment = {
            "PGRST_DB_URI": dsn,
            "PGRST_DB_SCHEMAS": ",".join(SCHEMAS),
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_DB_POOL": "20",
            "PGRST_JWT_SECRET": jwt_secret,
            "PGRST_SERVER_HOST": HOST,
            "PGRST_SERVER_PORT": str(self.port),
            "PGRST_ADMIN_SERVER_PORT": str(admin_port),
            "PGRST_LOG_LEVEL": "error",
        }

    @property
    def url(self) -> str:
        """The server itself, without the gateway and its faults."""
        return f"http://{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.alive()

    def start(self) -> None:
        self.stop()  # what is left of one that ended by itself
        self._server = LeashedServer([postgrest_binary()], log=self.log, env=self._environment)
        self.wait_until_ready()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def kill(self) -> None:
        """End it as `kill -9` does, whatever it was doing."""
        self._running().kill()
        self._server = None

    def pause(self) -> None:
        """Freeze it: connections are accepted by the system, and nothing is answered until `resume`."""
        self._running().send(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send(signal.SIGCONT)

    def reload_schema_cache(self) -> None:
        """Ask for a reload, which happens a little later; a signal works where its LISTEN was cut, too."""
        self._running().send(signal.SIGUSR1)

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return once it has a database connection and a schema cache."""
        wait_until_started(self._running(), "PostgREST", self._ready, timeout)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self._admin_url}/ready", timeout=5).is_success
        except httpx.TransportError:
            return False

    def _running(self) -> LeashedServer:
        if self._server is None:
            raise RuntimeError("PostgREST is not running")
        return self._server
