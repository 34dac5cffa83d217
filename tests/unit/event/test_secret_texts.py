"""Secrets are hidden however they are spelled, and what only looks like one is not."""

# ruff: noqa: RUF001  # look-alike letters are what is tested

from __future__ import annotations

import base64
import json
import re
import time
from collections import namedtuple
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_audit_exporter.event.json.encoder import Encoder, quick_json
from otel_audit_exporter.event.json.fallback_encoder import ValueWalk
from otel_audit_exporter.event.redaction import REDACTED, Redactor
from otel_audit_exporter.event.secret_keys import last_letters
from otel_audit_exporter.event.secret_texts import hide_in_text, may_hold_secret

SECRET = "hunter2Correct9Horse"
ENCODER = Encoder(Redactor())

# 80 keys.
KEYS = [
    "dbpassword", "PGPASSWORD", "userpassword", "password_hash", "passwordHash", "hashed_password", "session_id",
    "sessionId", "SESSIONID", "bearer", "authorization_header", "AuthorizationHeader", "signing_key", "signingKey",
    "database_url", "DATABASE_URL", "otp", "otp_code", "cvv", "CVV2", "cvc", "password_digest", "password_salt",
    "password_value", "passwordConfirmation", "password_confirm", "password2", "user.password.value", "mysqlpwd",
    "rootpassword", "adminpasswd", "smtp_pass", "dbpass", "MYSQL_ROOT_PASSWORD", "REDIS_PASSWORD", "secretKeyBase",
    "SECRET_KEY_OLD", "jwtsecret", "apptoken", "botToken", "usertoken", "githubtoken", "slack_token", "id_token",
    "sessiontoken", "X-Auth-Token", "X-CSRF-Token", "csrfmiddlewaretoken", "XSRF-TOKEN", "PHPSESSID", "JSESSIONID",
    "connect.sid", "encryption_key", "encryptionKey", "master_key", "service_role_key", "Ocp-Apim-Subscription-Key",
    "AccountKey", "ssh_key", "client_assertion", "code_verifier", "totp_secret", "mfa_code", "recovery_codes",
    "verification_code", "connection_string", "ConnectionString", "dsn", "sentry_dsn", "mongodb_uri", "redis_url",
    "card_number", "creditCard", "ssn", "passwort", "mot_de_passe", "contraseña", "senha", "пароль", "密码", "passw0rd",
    "p@ssword",
]  # fmt: skip
ODD_KEYS = [
    "ｐａｓｓｗｏｒｄ", "ＡＰＩ＿ＫＥＹ", "pаssword", "pаsswоrd", "ѕecret", "tоken",
    "pass\u200bword", "to\u00adken", "pássword",
    "PΑSSWORD", "b'password'", "user[password]", "password:", "'password'", "cookıe",
]  # fmt: skip
Login = namedtuple("Login", "user password")  # as applications have them
Header = namedtuple("Header", ["name", "value"])
BODY = {"user": "ada", "password": SECRET}
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0." + SECRET
# 66 values, with whatever is still to be read in them.
VALUES: list[tuple[Any, str]] = [
    ({"name": "password", "value": SECRET}, "name"),
    ({"key": "api_key", "value": SECRET}, "key"),
    ({"Name": "DB_PASSWORD", "Value": SECRET}, "Name"),
    ({"field": "password", "old": SECRET, "new": SECRET}, "field"),
    ({"field": "password", "old_value": SECRET, "newValue": SECRET}, "field"),
    ({"header": "Authorization", "value": f"x {SECRET}"}, "header"),
    ({"variables": [{"name": "USER", "value": "ada"}, {"name": "TOKEN", "value": SECRET}]}, "ada"),
    ([["host", "example.com"], ["authorization", f"Custom {SECRET}"]], "example.com"),
    ([(b"host", b"x"), (b"cookie", f"sid={SECRET}".encode())], "Y29va2ll"),
    ({"headers": (("accept", "*/*"), ("X-Api-Key", SECRET))}, "accept"),
    ({"items": BODY.items()}, "ada"),
    (Login("ada", SECRET), "ada"),
    ([Header("authorization", SECRET)], "authorization"),
    ({"login": {"inner": Login("ada", {"deep": SECRET})}}, "ada"),
    (urlencode(BODY), "user=ada"),
    (f"user=ada&password={SECRET}", "user=ada"),
    (f"user%5Bpassword%5D={SECRET}&x=1", "x=1"),
    (f"user[password]={SECRET}&x=1", "x=1"),
    (f"grant_type=password&client_secret={SECRET}", "grant_type=password"),
    (f"https://example.com/reset?token={SECRET}&lang=en", "lang=en"),
    (f"https://ada:{SECRET}@example.com/x", "ada"),
    (f"GET /?api_key={SECRET} HTTP/1.1", "HTTP/1.1"),
    (f"postgres://ada:{SECRET}@db.example.com:5432/app", "db.example.com"),
    (f"postgresql+asyncpg://ada:{SECRET}%40x@[::1]/app", "app"),
    (f"redis://:{SECRET}@cache:6379/0", "cache:6379"),
    (f"amqp://ada:p#{SECRET}@mq/", "amqp://ada"),
    (f"host=db password={SECRET} user=ada", "user=ada"),
    (f"host=db password='{SECRET} and more' user=ada", "user=ada"),
    (f"Server=db;User Id=ada;Password={SECRET};", "User Id=ada"),
    (f"Server=db;Pwd={SECRET};Encrypt=yes", "Encrypt=yes"),
    (f"ada:{SECRET}@tcp(db:3306)/app", "3306"),
    (f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET}==;", "AccountName=a"),
    ("\ufeff" + json.dumps(BODY), "ada"),
    ("body: " + json.dumps(BODY), "ada"),
    ("POST /login\n\n" + json.dumps(BODY), "ada"),
    (json.dumps(BODY)[:-2], "ada"),
    (json.dumps({"a": 1, "password": {"deep": [SECRET, SECRET]}})[:-6], '"a'),
    (json.dumps({"a": 1}) + "\n" + json.dumps(BODY) + "\n", "ada"),
    (json.dumps(BODY).encode(), "$base64"),
    (b"x " + json.dumps(BODY).encode(), "$base64"),
    (json.dumps(BODY).encode("utf-8-sig"), "$base64"),
    (bytearray(f"password={SECRET}".encode()), "$base64"),
    (json.dumps(json.dumps(BODY))[:-3], "ada"),
    ('x {"pass\\u0077ord": "' + SECRET + '"}', "x"),
    (json.dumps({"body": f"password={SECRET}&a=1"}), "a=1"),
    (json.dumps({"list": [["password", SECRET], ["a", "b"]]}), "list"),
    (repr(BODY), "ada"),
    (f"Login(user='ada', password='{SECRET}')", "ada"),
    (f"[('user', 'ada'), ('password', '{SECRET}')]", "ada"),
    (f"{{'headers': [(b'authorization', b'Custom {SECRET}')]}}", "headers"),
    (ValueError(f"cannot log in with password={SECRET}"), "cannot log in"),
    (KeyError(json.dumps(BODY)), "KeyError"),
    (OSError(f"cannot connect to postgres://ada:{SECRET}@db/app"), "cannot connect"),
    (f"DETAIL:  Key (password)=({SECRET}) already exists.", "already exists"),
    (f"Authorization: Custom {SECRET}", "Authorization"),
    (f"GET / HTTP/1.1\r\nHost: x\r\nCookie: a={SECRET}; b={SECRET}\r\nAccept: */*", "Accept"),
    (SimpleCookie({"token": SECRET}).output(), "Set-Cookie"),
    (f"user: ada\npassword: {SECRET}\n", "ada"),
    (f"<login><user>ada</user><password>{SECRET}</password></login>", "ada"),
    (f"psql --host db --password {SECRET} --quiet", "quiet"),
    (f"export PGPASSWORD={SECRET}; psql", "psql"),
    (f'Content-Disposition: form-data; name="password"\r\n\r\n{SECRET}\r\n--end', "end"),
    (f"a token {JWT} in text", "in text"),
    (f"-----BEGIN PRIVATE KEY-----\nMIIE{SECRET}\n-----END PRIVATE KEY-----", "PRIVATE KEY"),
    (f"sent as Bearer {SECRET}", "sent as"),
    ("Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode(), "Basic"),
]  # fmt: skip
PREFIXED = [
    "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0123456789_abcdef",
    "glpat-abcdefGHIJ1234567890", "xoxb-123456789012-abcdefGHIJ", "AKIAIOSFODNN7EXAMPLE", "AIza" + "Sy0123456789" * 3,
    "sb_secret_abcdefgh12345678", "sk-ant-api03-abcdefghij0123456789", "SG.abcdefghijklmnop1234.abcdefghijklmnop1234",
    "npm_abcdefghijklmnopqrstuvwxyz0123456789", "hf_abcdefghijklmnopqrstuvwx", "shpat_0123456789abcdef0123456789abcdef",
    "https://hooks.slack.com/services/T000/B000/XXXXXXXX", "whsec_abcdefghijklmnop0123456789",
]  # fmt: skip
SHOWN = [
    "token_count=5", "password_changed_at=2026-01-01", "password_changed_at: 2026-01-01", "the user reset the password",
    'FATAL: password authentication failed for user "x"', "12:30:00", "https://host:8080/path?user=a&page=2", "a=b",
    "https://host:8080/mail?to=joe@example.org", "mailto:joe@example.org", "Basic understanding", "the bearer of news",
    "Key (email)=(a@b)", "note: fine", "2026-05-01T12:00:00Z", "Password: reset by the admin", "ratio 3:4",
    "x == token",
    "['password', 'email']", '["password", "email"]', "'password', 'email' changed", "secret", "part A-12_x: ok (<b>)",
    "if password == 'x'", "urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e", "C:\\secret\\x.txt", "it's \"good\": 3",
    "token: is it yours?", "max_tokens=100", "secret_name=db", "tokens: 12", "key=A12", "Session: closed",
    "e-mail -- ok",
    "password=", "password=null", "the key sk-12 is lost", "AKIA", "data:text/plain,a=b",
]  # fmt: skip


def shown(value: object) -> str:
    written = json.loads(ENCODER.value(value))
    return json.dumps(written, ensure_ascii=False) + json.dumps(decoded(written))


def decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return [decoded(base64.b64decode(member).decode()) if key == "$base64" else decoded(member)
                for key, member in value.items()]  # fmt: skip
    return [decoded(member) for member in value] if isinstance(value, list) else value


def test_there_are_a_hundred_and_forty_six_spellings_or_more() -> None:
    assert len({*KEYS, *ODD_KEYS}) + len(VALUES) >= 146


@pytest.mark.parametrize("key", [*KEYS, *ODD_KEYS])
def test_the_value_of_a_secret_key_is_hidden(key: str) -> None:
    for value in ({key: SECRET}, {"a": [{key: [SECRET]}]}, json.dumps({key: SECRET}), {"name": key, "value": SECRET}):
        assert SECRET not in shown(value)
        assert REDACTED in shown(value)


@pytest.mark.parametrize("key", [key for key in KEYS if re.fullmatch(r"[\w.-]+", key)])
def test_the_value_of_a_secret_key_is_hidden_inside_text(key: str) -> None:
    plain = key.replace("0", "o").replace("@", "a")
    for text in (f"{plain}={SECRET}", f"a=1&{plain}={SECRET}&b=2", f'x "{plain}": "{SECRET}"', f"{plain}='{SECRET}'"):
        assert SECRET not in shown(text)
        assert SECRET not in shown({"a": text})


@pytest.mark.parametrize(("value", "kept"), VALUES, ids=lambda value: re.sub(r"\W+", "-", str(value))[:40])
def test_a_secret_that_no_key_of_a_dict_names_is_hidden(value: Any, kept: str) -> None:
    for wrapped in (value, {"note": value}, [{"a": {"b": value}}]):
        text = shown(wrapped)
        assert SECRET not in text
        assert base64.b64encode(SECRET.encode()).decode().rstrip("=") not in text
        assert base64.b64encode(f"ada:{SECRET}".encode()).decode() not in text
        assert REDACTED in text
        assert kept in text


@pytest.mark.parametrize("secret", PREFIXED)
def test_a_key_of_a_well_known_form_is_hidden(secret: str) -> None:
    for value in (secret, {"note": f"with {secret} in it"}, [f"x={secret}"]):
        assert secret not in shown(value)
        assert REDACTED in shown(value)


@pytest.mark.parametrize("text", SHOWN)
def test_what_only_looks_like_a_secret_is_kept(text: str) -> None:
    assert json.loads(ENCODER.value({"note": text})) == {"note": text}
    assert json.loads(ENCODER.value([text, {"a": text}])) == [text, {"a": text}]


@pytest.mark.parametrize(
    "key", ["token_count", "password_changed_at", "passwordStrength", "secret_name", "cookie_policy"]
)
def test_a_text_about_a_secret_is_kept(key: str) -> None:
    value = {key: "x", "list": [{"name": key, "value": "y"}]}
    assert json.loads(ENCODER.value(value)) == value


def test_two_names_in_a_list_are_no_pair() -> None:
    value = {"changed": ["password", "email"], "fields": ("token", "name")}
    assert json.loads(ENCODER.value(value)) == {"changed": ["password", "email"], "fields": ["token", "name"]}


def test_bytes_without_a_secret_stay_as_they_are() -> None:
    for data in (b"\x00\xff", b"password", json.dumps({"a": 1}).encode()):
        assert json.loads(ENCODER.value(data)) == {"$base64": base64.b64encode(data).decode()}


def test_an_empty_list_of_keys_leaves_text_alone() -> None:
    text = f"password={SECRET} postgres://a:{SECRET}@b/c {JWT}"
    assert json.loads(Encoder(Redactor(())).value({"a": text, "b": [("password", SECRET)]})) == {
        "a": text,
        "b": [["password", SECRET]],
    }


def test_a_list_of_ones_own_holds_inside_text_too() -> None:
    own = Encoder(Redactor(["iban"]))
    assert json.loads(own.value({"a": "customer_iban=DE00 password=x"})) == {
        "a": f"customer_iban={REDACTED} password=x"
    }


@pytest.mark.parametrize(
    "text",
    ["x" * 300_000, '"' * 300_000, "\\" * 300_000, "a=" * 150_000, "<a " * 100_000, "a://" * 75_000,
     "[" * 300_000 + ":",
     "password=" * 40_000, "--a " * 75_000, "eyJ" * 100_000, "-----BEGIN PRIVATE KEY-----" * 10_000,
     "(" * 300_000 + "=",
     'name="a"\n' * 30_000, "a:b@" * 75_000, "'password', " * 30_000, "\n " * 150_000 + ":", "password: {" * 20_000],
    ids=lambda text: repr(text[:10]),
)  # fmt: skip
def test_a_long_text_made_to_take_long_does_not(text: str) -> None:
    began = time.process_time()
    ENCODER.value({"a": text})
    assert time.process_time() - began < 20  # what grows with the square of the length takes minutes


@given(st.lists(st.sampled_from([*SHOWN, *(value for value, _ in VALUES if isinstance(value, str)), *PREFIXED, ""])))
def test_many_texts_are_cleared_only_if_none_holds_a_secret(texts: list[str]) -> None:
    redactor = Redactor()
    assert redactor.clears_texts(texts) == all(redactor.text(text) is text for text in texts)
    quick = quick_json(texts, redactor)
    assert quick in (None, ValueWalk(redactor, None).run(texts))


PIECES = st.sampled_from(
    [*KEYS, *ODD_KEYS, *SHOWN, *(value for value, _ in VALUES if isinstance(value, str)), "order", "description",
     "sort", "created", "header", "joe@example.org", "=", ":", ": ", '": "', "=>", "&", "\n", "%6F", "\\u006f", SECRET]
)  # fmt: skip


MARKED = st.builds("{}{}{}".format, PIECES, st.sampled_from(["=", ": ", '": "', "' => '", " "]), PIECES)


@settings(max_examples=600)
@given(st.lists(MARKED | PIECES | st.text(max_size=3), max_size=4).map(" ".join))
def test_what_the_second_look_spares_has_nothing_to_hide(text: str) -> None:
    redactor = Redactor()
    names = redactor._names
    before = text.replace("=", ":").split(":")[:-1]
    ends = [*map(last_letters, before), *("".join(filter(str.isalpha, part)).lower()[-3:] for part in before)]
    passes = not names.endings.isdisjoint([*ends, *(end[-2:] for end in ends)])
    if passes or may_hold_secret(text, names):
        assert redactor.text(text) == hide_in_text(text, redactor.hides)


@given(st.text(), st.sampled_from([value for value, _ in VALUES if isinstance(value, str)]))
def test_what_was_redacted_once_is_left_alone(before: str, text: str) -> None:
    redactor = Redactor()
    once = redactor.text(f"{before} {text}")
    assert redactor.text(once) == once
    orjson.loads(ENCODER.value({"a": before + text}))
