"""Which values are secrets of users, told by the key that they stand under."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

REDACTED = "[REDACTED]"

DEFAULT_REDACT_KEYS: tuple[str, ...] = (
    "password", "passwords", "password1", "password2", "passwd", "pwd", "passphrase", "passcode",
    "secret", "secrets", "secret_key", "secret_keys", "client_secret",
    "token", "access_token", "refresh_token", "auth_token", "csrf_token", "jwt", "jwts",
    "api_key", "api_keys", "access_key", "access_keys", "private_key", "private_keys",
    "credential", "credentials", "authorization", "cookie", "cookies", "set_cookie",
)  # fmt: skip

RedactionHook = Callable[[tuple[str, ...], object], object]

_CACHED_KEYS = 4096
_CACHED_KEY_LENGTH = 256
_SEPARATORS = re.compile(r"[\W_]+")
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Redactor:
    """Decide which values never reach the record.

    A key is hidden where a name of the list is the whole key or its last words: `user_password`, `apiKey`,
    `X-Api-Key`, not `token_count`. Words are joined before they are compared, so that a listed `apikey` hides
    `api_key` too. Safe to share between threads.

    Args:
        keys: the names whose values are hidden; an empty list switches this off.
        hook: asked about every value that no key hides, as `hook(path, value)`; what it returns is recorded.
            `path` holds the keys that lead to the value (the elements of a list have the path of the list).
            Where the hook raises, `"[REDACTED]"` is recorded: the event is kept, the value is not.
    """

    keys: Iterable[str] = DEFAULT_REDACT_KEYS
    hook: RedactionHook | None = None
    _names: frozenset[str] = field(init=False, repr=False, compare=False)
    _verdicts: dict[str, bool] = field(init=False, repr=False, compare=False, default_factory=dict)
    _shown: set[str] = field(init=False, repr=False, compare=False, default_factory=set)

    def __post_init__(self) -> None:
        keys = (self.keys,) if isinstance(self.keys, str) else tuple(self.keys)
        # Words are joined before they are compared, so that a listed "apikey" and the key "api_key" meet.
        names = frozenset(filter(None, ("".join(_words(key)) for key in keys)))
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "_names", names)

    @property
    def enabled(self) -> bool:
        """Whether any key is hidden at all."""
        return bool(self._names)

    def hides(self, key: str) -> bool:
        """Say whether the value under this key is to be hidden."""
        verdict = self._verdicts.get(key)
        return self._decide(key) if verdict is None else verdict

    def clears(self, keys: Collection[str]) -> bool:
        """Say whether none of these keys is hidden: `hides` for a whole dict at once, and faster."""
        if not self._names or self._shown.issuperset(keys):
            return True
        return not any(map(self.hides, keys))

    def ask_hook(self, path: tuple[str, ...], value: object) -> object:
        """Return what the hook wants recorded for a value; `"[REDACTED]"` where the hook raises."""
        if self.hook is None:
            return value
        try:
            return self.hook(path, value)
        except Exception:  # the event must not be lost, nor kept what the hook did not clear
            return REDACTED

    def _decide(self, key: str) -> bool:
        verdict = _ends_in(_words(key), self._names)
        if len(key) <= _CACHED_KEY_LENGTH:
            self._remember(key, verdict)
        return verdict

    def _remember(self, key: str, verdict: bool) -> None:
        if len(self._verdicts) >= _CACHED_KEYS:
            self._verdicts.clear()
            self._shown.clear()
        self._verdicts[key] = verdict
        if not verdict:
            self._shown.add(key)


def _words(key: str) -> list[str]:
    """Split a key into lower-case words: at whatever is no letter or digit, and at camelCase."""
    return [word.lower() for part in _SEPARATORS.split(key) for word in _HUMPS.split(part) if word]


def _ends_in(words: list[str], names: frozenset[str]) -> bool:
    """Say whether the last words, joined, are one of the names."""
    longest = max(map(len, names), default=0)
    ending = ""
    for word in reversed(words):
        ending = word + ending
        if ending in names or len(ending) > longest:
            break
    return ending in names
