"""Names under which secrets are kept, and how a key is compared with them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

DEFAULT_REDACT_KEYS: Final[tuple[str, ...]] = (
    "password", "passwords", "password1", "password2", "passwd", "pwd", "passphrase", "passcode", "pgpass",
    "db_pass", "user_pass", "smtp_pass", "mail_pass", "email_pass", "ftp_pass", "ssh_pass", "mysql_pass", "root_pass",
    "admin_pass", "mot_de_passe", "passwort", "kennwort", "wachtwoord", "contrasena", "senha", "пароль", "密码",
    "secret", "secrets", "secret_key", "secret_keys", "secret_key_base", "client_secret", "seed_phrase", "mnemonic",
    "token", "access_token", "access_tokens", "refresh_token", "refresh_tokens", "auth_token", "auth_tokens",
    "api_tokens", "bearer_tokens", "session_tokens", "csrf_token", "csrfmiddlewaretoken", "jwt", "jwts", "bearer",
    "api_key", "api_keys", "access_key", "access_keys", "private_key", "private_keys", "signing_key", "signing_keys",
    "encryption_key", "encryption_keys", "decryption_key", "master_key", "service_role_key", "account_key",
    "shared_key", "subscription_key", "session_key", "ssh_key", "hmac_key",
    "credential", "credentials", "authorization", "basic_auth", "http_auth", "cookie", "cookies", "set_cookie",
    "session_id", "session_ids", "sessid", "phpsessid", "jsessionid", "connect_sid", "csrf", "xsrf", "client_assertion",
    "code_verifier", "otp", "totp", "otp_code", "mfa_code", "one_time_code", "two_factor_code", "auth_code",
    "authorization_code", "verification_code", "recovery_code", "recovery_codes", "backup_code", "backup_codes",
    "reset_code", "security_code", "cvv", "cvv2", "cvc", "cvc2", "card_number", "credit_card", "credit_card_number",
    "ssn", "social_security_number", "database_url", "database_uri", "db_url", "db_uri", "redis_url", "mongo_url",
    "mongodb_uri", "mongo_uri", "postgres_url", "mysql_url", "amqp_url", "broker_url", "jdbc_url", "dsn",
    "connection_string", "conn_str",
)  # fmt: skip

# What is often written before such a name without anything between: dbpassword, PGPASSWORD, userpassword.
_RUN_TOGETHER: Final = (
    "db", "pg", "postgres", "my", "mysql", "maria", "mssql", "sql", "mongo", "redis", "rabbitmq", "amqp", "smtp",
    "imap", "mail", "email", "ftp", "sftp", "ssh", "ssl", "tls", "ldap", "user", "usr", "admin", "root", "login",
    "account", "acct", "auth", "app", "api", "web", "http", "proxy", "server", "host", "client", "service", "svc",
    "system", "sys", "master", "main", "new", "old", "current", "cur", "confirm", "repeat", "re", "verify", "temp",
    "tmp", "reset", "initial", "default", "plain", "raw", "hashed", "encrypted", "access", "refresh", "session",
    "csrf", "xsrf", "id", "bearer", "bot", "device", "jwt", "card", "wifi", "wlan", "vpn", "zip", "key", "store",
    "keystore", "x", "amz", "aws", "azure", "gcp", "google", "github", "gitlab", "slack", "stripe", "twilio",
    "supabase",
)  # fmt: skip
# What may follow such a name of a secret: password_hash, authorization_header.
_FOLLOWING: Final = frozenset({
    "hash", "hashed", "hashes", "digest", "salt", "value", "header", "headers", "plain", "plaintext", "raw",
    "confirmation", "confirm", "repeat", "again", "old", "new", "current", "previous", "encrypted", "ciphertext",
    "base64", "hex", "pem", "string", "str", "field", "input",
})  # fmt: skip
_SEPARATORS: Final = re.compile(r"[\W_]+")
_HUMPS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LOOK_ALIKES: Final = str.maketrans(
    "аАвВеЕкКмМнНоОрРсСтТуУхХіІјЈѕЅԁɡɩαΑβΒεΕηΗιΙκΚμΜνΝοΟρΡτΤυΥχΧωϲı",
    "aAbBeEkKmMhHoOpPcCtTyYxXiIjJsSdgiaAbBeEnHiIkKuMvNoOpPtTuYxXwci",
)
LEET: Final = str.maketrans("@$0134578", "asoieastb")
_DIGITS: Final = "0123456789"
_NO_LETTERS: Final = _DIGITS + " \t\"'\\])%_-."
HAS_LEET: Final = re.compile(r"[A-Za-z][@$0134578]+[A-Za-z]")


class SecretNames:
    """Listed keys, and whether another key is one of them or ends in one, however it is written.

    Words are joined before they are compared, so that a listed "apikey" and the key "api_key" meet.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self.names: Final = frozenset(filter(None, ("".join(_words(folded(key))) for key in keys)))
        self._endings: Final = tuple(self.names)
        # The last three letters that such a key can have, for a quick look; "" where a key has fewer.
        endings = set(map(last_letters, self.names | _FOLLOWING))
        self.endings: Final = frozenset(endings | {"" for ending in endings if len(ending) < 3 and ending.isascii()})
        self.ascii_endings: Final = frozenset(ending.encode() for ending in self.endings if ending.isascii())
        letters = set(map(_letters, self.names))
        self._by_ending: Final = _by_ending(letters)
        self._short: Final = tuple(word for word in letters if len(word) < 3)
        self._longest: Final = max(map(len, self.names), default=0)

    def include(self, key: str) -> bool:
        """Say whether the value under this key is a secret."""
        plain = folded(key)
        return self._is_named(plain) or (bool(HAS_LEET.search(plain)) and self._is_named(plain.translate(LEET)))

    def any_may_end(self, parts: Iterable[str]) -> bool:
        """Say whether a part may end in a secret's key; of each only its small letters are given, in a row."""
        ends = self.endings
        return "" in ends or any(self._may_end(part) for part in parts if part[-3:] in ends or part[-2:] in ends)

    def _may_end(self, letters: str) -> bool:
        end = len(letters)
        while end > 0:
            ending = letters[max(end - 3, 0) : end]
            if letters.endswith(self._short, 0, end) or letters.endswith(self._by_ending.get(ending, ()), 0, end):
                return True
            following = (word for word in _FOLLOWING_BY_ENDING.get(ending, ()) if letters.endswith(word, 0, end))
            length = len(next(following, ""))
            if length == 0:
                return False
            end -= length
        return False

    def _is_named(self, key: str) -> bool:
        words = _words(key)
        while words:
            if self._ends(words):
                return True
            if words[-1] not in _FOLLOWING and not words[-1].isdigit():
                return False
            words.pop()
        return False

    def _ends(self, words: list[str]) -> bool:
        """Say whether the last words are a name, with a number behind it or a known word run together with it."""
        last = words[-1].rstrip(_DIGITS) or words[-1]
        for ending in (words[-1], last):
            joined = self._joined(words, ending)
            if joined in self.names:
                return True
        return last.endswith(self._endings) and any(rest in self.names for rest in _without_prefix(last))

    def _joined(self, words: list[str], ending: str) -> str:
        for word in reversed(words[:-1]):
            if ending in self.names or len(ending) > self._longest:
                break
            ending = word + ending
        return ending


def _letters(key: str) -> str:
    return "".join(filter(str.isalpha, key))


def _by_ending(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        found[word[-3:]] = (*found.get(word[-3:], ()), word)
    return found


_FOLLOWING_BY_ENDING: Final = _by_ending(map(_letters, _FOLLOWING))


def last_letters(key: str) -> str:
    """Return the last three letters of a key, without what is no letter among them."""
    end = key[-16:].rstrip(_NO_LETTERS)[-3:].lower()
    if len(end) == 3 and end.isalpha():  # nearly always
        return end if end.isascii() else _folded_end(end)
    return "".join(filter(str.isalpha, folded(key[-16:])))[-3:].lower()


@lru_cache(maxsize=1024)
def _folded_end(end: str) -> str:
    return folded(end).lower()[-3:]


def folded(key: str) -> str:
    """Return a key in plain letters: full-width ones, accents and look-alikes of other scripts are replaced."""
    if key.isascii():
        return key
    parts = unicodedata.normalize("NFKD", key)
    letters = "".join(letter for letter in parts if unicodedata.category(letter) not in ("Mn", "Cf"))
    return letters.translate(_LOOK_ALIKES)


def _words(key: str) -> list[str]:
    """Split a key into lower-case words: at each character that is no letter or digit, and at camelCase."""
    return [word.lower() for part in _SEPARATORS.split(key) for word in _HUMPS.split(part) if word]


def _without_prefix(word: str) -> Iterator[str]:
    """Give what is left of a word behind known ones that it begins with, dbuserpassword's password in the end."""
    for prefix in _RUN_TOGETHER:
        rest = word.removeprefix(prefix)
        if len(rest) > 2 and rest != word:
            yield rest
            yield from _without_prefix(rest)
