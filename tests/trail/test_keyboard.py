"""The page by keyboard alone: whatever does something is an element that a keyboard reaches and a reader hears."""

from __future__ import annotations

from html.parser import HTMLParser
from importlib import resources

import pytest

from otel_audit_exporter.trail import ALL, Reader
from otel_audit_exporter.trail.handler import PAGE
from tests.support.trail_events import PARTS, USERS, write
from tests.trail.asking import client_of
from tests.trail.conftest import Configure

REACHED = ("a", "button", "input", "select", "summary")
AUDITOR = Reader(USERS[1], tenants=ALL, sees_source=True)
ADDRESSES = {
    "timeline": "/trail/",
    "filter": f"/trail/?user={USERS[0]}&access=1",
    "wrong": "/trail/?since=yesterday",
    "frame": f"/trail/frame?entity_type=part&entity_id={PARTS[0]}",
}

pytestmark = pytest.mark.parametrize("kind", ["memory"], indirect=True)


class Elements(HTMLParser):
    """The elements of a page in order, each with its attributes, the elements around it, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
        self.texts: list[str] = []
        self._open: list[tuple[str, int]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}, tuple(name for name, _ in self._open)))
        self.texts.append("")
        if tag not in ("input", "meta", "link"):
            self._open.append((tag, len(self.texts) - 1))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, index in self._open:
            self.texts[index] += data


def page_of(configured: Configure, address: str) -> Elements:
    write(configured(), *({"metadata": {"n": number}} for number in range(PAGE + 1)))
    return Elements(client_of(AUDITOR).get(address).text)


@pytest.mark.parametrize("name", ADDRESSES)
def test_everything_that_acts_is_reached_in_the_order_of_the_page(configured: Configure, name: str) -> None:
    page = page_of(configured, ADDRESSES[name])
    for tag, attributes, _ in page.found:
        assert attributes.get("tabindex", "0") in ("0", "-1"), attributes  # none out of turn
        assert tag not in REACHED or attributes.get("tabindex") is None
        assert "autofocus" not in attributes
        assert "accesskey" not in attributes
        assert tag != "a" or attributes["href"]
    summaries = [around for tag, _, around in page.found if tag == "summary"]
    assert len(summaries) == sum(tag == "details" for tag, _, _ in page.found)
    assert all(around[-1] == "details" for around in summaries)


@pytest.mark.parametrize("name", ADDRESSES)
def test_everything_that_acts_says_what_it_does(configured: Configure, name: str) -> None:
    page = page_of(configured, ADDRESSES[name])
    for (tag, attributes, around), text in zip(page.found, page.texts, strict=True):
        if tag in ("a", "button", "summary"):
            assert attributes.get("aria-label") or text.strip(), attributes
        if tag in ("input", "select") and attributes.get("type") != "hidden":
            assert "label" in around


def test_the_first_key_leads_past_the_filter_to_the_events(configured: Configure) -> None:
    page = page_of(configured, "/trail/")
    first = next(attributes for tag, attributes, _ in page.found if tag in REACHED)
    assert first["href"] == "#events"
    (target,) = (attributes for _, attributes, _ in page.found if attributes.get("id") == "events")
    assert target["tabindex"] == "-1"


def test_where_the_focus_is_can_be_seen(configured: Configure) -> None:
    style = resources.files("otel_audit_exporter.trail").joinpath("page.html").read_text(encoding="utf-8")
    rule = next(line for line in style.splitlines() if ":focus-visible" in line)
    for element in (*REACHED, "pre"):
        assert f"{element}:focus-visible" in rule
    assert "outline: 3px solid" in rule
    assert "outline: none" not in style
    assert "outline: 0" not in style
