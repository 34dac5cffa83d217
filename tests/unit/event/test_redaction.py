"""Which keys hide their values."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit_exporter.event.redaction import DEFAULT_REDACT_KEYS, REDACTED, Redactor
from otel_audit_exporter.event.secret_texts import may_hold_secret

HIDDEN = (
    "password passwords user_password userPassword new-password passwd PWD passphrase secret clientSecret"
    " AWS_SECRET_ACCESS_KEY token access_token accessToken accesstoken refreshToken api_key apikey"
    " apiKey APIKey X-Api-Key XApiKey x.api.key HTTPAuthorization HTTP_AUTHORIZATION proxy-authorization"
    " Cookie Set-Cookie setCookie HTTP_COOKIE jwt userJWT private_key PrivateKey credentials db.credentials"
    " secrets cookies PassWord pass_word user[password] password: SECRET_KEY new_password1"
)
SHOWN = (
    "token_count tokens max_tokens password_changed_at secretary cookie_policy author authority"
    " key keyboard apikey_id compassword status notes quantity keys monkey __ - . 1 é"
)


@pytest.mark.parametrize("key", [*HIDDEN.split(), "API KEY", " password ", "b'password'"])
def test_a_key_that_ends_in_a_listed_name_is_hidden(key: str) -> None:
    assert Redactor().hides(key)


@pytest.mark.parametrize("key", [*SHOWN.split(), "", "password reset requested"])
def test_a_key_that_merely_contains_a_listed_name_is_shown(key: str) -> None:
    assert not Redactor().hides(key)


@pytest.mark.parametrize("listed", ["apikey", "api_key", "API-Key", "ApiKey"])
def test_a_listed_name_matches_however_either_side_is_written(listed: str) -> None:
    redactor = Redactor([listed])
    assert all(map(redactor.hides, ["apikey", "api_key", "apiKey", "X-API-KEY", "my.api key"]))
    assert not redactor.hides("key")


@pytest.mark.parametrize("keys", [(), [""], ["-", " "]])
def test_an_empty_list_switches_redaction_off(keys: list[str]) -> None:
    redactor = Redactor(keys)
    assert not redactor.enabled
    assert not redactor.hides("password")
    assert redactor.clears(["password"])


def test_a_list_of_the_callers_own_replaces_the_default() -> None:
    redactor = Redactor(iter(["iban"]))
    assert redactor.enabled
    assert redactor.hides("customer_iban")
    assert not redactor.hides("password")


def test_a_single_name_is_not_taken_for_a_list_of_letters() -> None:
    redactor = Redactor("pin")
    assert redactor.hides("card_pin")
    assert not redactor.hides("p")


def test_a_name_in_another_script_is_matched_too() -> None:
    assert Redactor(["пароль"]).hides("Новый_Пароль")


@given(st.lists(st.sampled_from(HIDDEN.split() + SHOWN.split()) | st.text(), max_size=20))
def test_many_keys_are_cleared_just_when_none_of_them_is_hidden(keys: list[str]) -> None:
    redactor = Redactor()
    for _ in range(2):  # the second time from what it remembers
        assert redactor.clears(keys) == (not any(map(Redactor().hides, keys)))


@given(st.text(), st.sampled_from(DEFAULT_REDACT_KEYS), st.sampled_from("_-. /:"))
def test_any_prefix_before_a_listed_name_leaves_it_hidden(prefix: str, name: str, separator: str) -> None:
    assert Redactor().hides(prefix + separator + name)
    assert Redactor().hides(prefix + separator + name.upper())


def test_what_it_remembers_of_keys_is_bounded() -> None:
    redactor = Redactor()
    for index in range(20_000):
        assert not redactor.hides(f"key{index}")
        assert redactor.hides(f"{index}_password")
    redactor.hides("x" * 100_000)
    assert len(redactor._verdicts) <= 4096
    assert len(redactor._shown) <= 4096
    assert max(map(len, redactor._verdicts)) < 1000


def test_redactors_with_the_same_list_are_equal_and_cannot_be_changed() -> None:
    assert Redactor(["a"]) == Redactor(("a",))
    assert Redactor(["a"]) != Redactor(["b"])
    assert hash(Redactor(["a"])) == hash(Redactor(("a",)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Redactor().keys = ()  # type: ignore[misc]  # the point of the test


def test_the_hook_says_what_is_recorded() -> None:
    redactor = Redactor(hook=lambda path, value: (path, value))
    assert redactor.ask_hook(("a", "b"), 1) == (("a", "b"), 1)


def test_without_a_hook_a_value_stays_what_it_is() -> None:
    value = object()
    assert Redactor().ask_hook((), value) is value


def test_a_hook_that_raises_hides_the_value() -> None:
    def broken(path: tuple[str, ...], value: object) -> object:
        raise LookupError("4111 1111 1111 1111")

    assert Redactor(hook=broken).ask_hook((), "4111 1111 1111 1111") == REDACTED


def test_plain_words_and_times_are_quickly_seen_to_be_harmless() -> None:
    redactor = Redactor()
    texts = [
        "2026-05-01T12:30:00Z",
        "Note: ok, see part_no A-12",
        "Größe: 3, geprüft: ja",
        "https://example.org/?page=2",
    ]
    assert not any(may_hold_secret(text, redactor._names) for text in texts)
