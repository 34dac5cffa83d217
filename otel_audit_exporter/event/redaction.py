"""Which values are secrets of users, by the key that they stand under or by their form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from otel_audit_exporter.event.secret_keys import DEFAULT_REDACT_KEYS, SecretNames
from otel_audit_exporter.event.secret_texts import REDACTED, hide_in_text, may_hold_secret

__all__ = ["DEFAULT_REDACT_KEYS", "REDACTED", "RedactionHook", "Redactor"]

RedactionHook = Callable[[tuple[str, ...], object], object]

_CACHED_KEYS = 4096
_CACHED_KEY_LENGTH = 256
# Of {"name": "password", "value": ...}, {"field": "password", "old": ..., "new": ...}: what names, and what holds.
_NAMING_KEYS = frozenset({
    "name", "key", "field", "fieldname", "header", "k", "n", "param", "parameter", "variable", "attribute", "attr",
    "column", "property", "setting", "option",
})  # fmt: skip
_HOLDING_KEYS = frozenset({
    "value", "values", "val", "v", "old", "new", "oldvalue", "newvalue", "oldval", "newval", "previous", "current",
    "before", "after", "from", "to", "was", "is", "default", "stringvalue", "rawvalue",
})  # fmt: skip
_JOINTS = str.maketrans("", "", "_- ")


@dataclass(frozen=True)
class Redactor:
    """Decide which values never reach the record.

    A key is hidden where a name of the list is the whole key or its last words: `user_password`, `apiKey`, `X-Api-Key`,
    not `token_count`; also behind a word that is often run together with it (`dbpassword`), before a word that leaves
    it a secret (`password_hash`), and in look-alike letters. Words are joined before they are compared, so that a
    listed `apikey` hides `api_key` too. Also hidden are the value of a pair (`{"name": "password", "value": ...}`), an
    assignment in a text (`password=...`), and secrets that are known by their form (a JWT, a private key, the password
    in a URL). Safe to share between threads.

    Args:
        keys: the names whose values are hidden; an empty list switches this off.
        hook: asked about every value that no key hides, as `hook(path, value)`; what it returns is recorded.
            `path` holds the keys that lead to the value (the elements of a list have the path of the list).
            Where the hook raises, `"[REDACTED]"` is recorded: the event is kept, the value is not.
    """

    keys: Iterable[str] = DEFAULT_REDACT_KEYS
    hook: RedactionHook | None = None
    _names: SecretNames = field(init=False, repr=False, compare=False)
    _verdicts: dict[str, bool] = field(init=False, repr=False, compare=False, default_factory=dict)
    _shown: set[str] = field(init=False, repr=False, compare=False, default_factory=set)

    def __post_init__(self) -> None:
        keys = (self.keys,) if isinstance(self.keys, str) else tuple(self.keys)
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "_names", SecretNames(keys))

    @property
    def enabled(self) -> bool:
        """Whether any key is hidden at all."""
        return bool(self._names.names)

    def hides(self, key: str) -> bool:
        """Say whether the value under this key is to be hidden."""
        verdict = self._verdicts.get(key)
        return self._decide(key) if verdict is None else verdict

    def clears(self, keys: Collection[str]) -> bool:
        """Say whether none of these keys is hidden: `hides` for a whole dict at once, and faster.

        Given the dict itself, it also returns False where the dict is a pair that names a secret.
        """
        if self._shown.issuperset(keys) or not self._names.names:
            return True
        if any(map(self.hides, keys)):
            return False
        return not (isinstance(keys, dict) and self.names_secret(keys.items()))

    def names_secret(self, members: Iterable[tuple[object, object]]) -> bool:
        """Say whether members such as `name` and `value` are a pair whose value is a secret."""
        names, holds = [], False
        for key, value in members:
            if isinstance(key, str):
                plain = _plain_key(key)
                holds = holds or plain in _HOLDING_KEYS
                if plain in _NAMING_KEYS:
                    names.append(value)
        return holds and any(map(self.is_secret_name, names))

    def is_secret_name(self, value: object) -> bool:
        """Say whether a value, of a pair, is a key that would be hidden."""
        if isinstance(value, bytes):
            value = value[:_CACHED_KEY_LENGTH].decode("latin-1")
        return isinstance(value, str) and len(value) <= _CACHED_KEY_LENGTH and self.hides(value)

    def holds_pair_value(self, key: str) -> bool:
        """Say whether a member of this name is what a pair's name speaks of."""
        return _plain_key(key) in _HOLDING_KEYS

    def text(self, text: str) -> str:
        """Return a text without its secrets; the text itself where it has none."""
        if self.enabled and may_hold_secret(text, self._names):
            return hide_in_text(text, self.hides)
        return text

    def clears_texts(self, texts: list[str]) -> bool:
        """Say whether none of these texts holds a secret: all at once, as one look through a long text is quicker."""
        if not texts or not self.enabled:
            return True
        if not may_hold_secret("\n".join(texts), self._names):
            return True
        return not any(may_hold_secret(text, self._names) and self.text(text) is not text for text in texts)

    def ask_hook(self, path: tuple[str, ...], value: object) -> object:
        """Return what the hook wants recorded for a value; `"[REDACTED]"` where the hook raises."""
        if self.hook is None:
            return value
        try:
            return self.hook(path, value)
        except Exception:  # the event must not be lost, and a value that the hook did not clear must not be kept
            return REDACTED

    def _decide(self, key: str) -> bool:
        verdict = self.enabled and self._names.include(key)
        if len(key) <= _CACHED_KEY_LENGTH:
            self._remember(key, verdict)
        return verdict

    def _remember(self, key: str, verdict: bool) -> None:
        if len(self._verdicts) >= _CACHED_KEYS:
            self._verdicts.clear()
            self._shown.clear()
        self._verdicts[key] = verdict
        if not verdict and not self.holds_pair_value(key):  # such a key has its dict looked at
            self._shown.add(key)


def _plain_key(key: str) -> str:
    return key.translate(_JOINTS).lower()
