"""The page's own words: one table, which an application can replace, in whole or in part."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Final

from otel_audit_exporter.errors import AuditConfigurationError

ENGLISH: Final[Mapping[str, str]] = {
    "language": "en",
    "title": "Audit trail",
    "skip": "Skip to the events",
    # Sentences: who did what to which entity. {changes} are fields with their values before and after.
    "changed": "{who} changed {changes} on {entity}",
    "set": "{who} set {changes} on {entity}",
    "removed": "{who} removed {changes} on {entity}",
    "did": "{who} did {action} on {entity}",
    "tried": "{who} tried {action} on {entity}",
    "for": "{sentence}, for {behalf}",
    "more_changes": "and {count} more",
    "nobody": "Nobody",
    "service": "a service",
    "system": "the system",
    "a_value": "its value",
    # Events.
    "details": "Details",
    "details_of": "Details of {action} at {time}",
    "failure": "failed",
    "unknown": "outcome unknown",
    "field": "Field",
    "before": "Before",
    "after": "After",
    "absent": "not there",
    "no_change": "No field differs.",
    "cut": "Cut here for the page; the export has the whole.",
    "old_values": "All values before",
    "new_values": "All values after",
    "time": "Time",
    "action": "Action",
    "outcome": "Outcome",
    "actor_type": "Kind of actor",
    "user": "User",
    "on_behalf_of": "For",
    "tenant": "Tenant",
    "entity": "Entity",
    "source_ip": "Source address",
    "user_agent": "User agent",
    "request_id": "Request",
    "trace_id": "Trace",
    "span_id": "Span",
    "event_name": "Event name",
    "record_id": "Record",
    "metadata": "Metadata",
    "signature": "Signature",
    "all_of_this": "All of this: {what}",
    "open_trace": "Open the trace",
    # The filter.
    "filter": "Filter",
    "text": "Text",
    "entity_type": "Entity type",
    "entity_id": "Entity id",
    "since": "From (UTC)",
    "until": "Before (UTC)",
    "time_hint": "2026-03-04 or 7d",
    "any": "any",
    "success": "success",
    "order": "Order",
    "newest": "Newest first",
    "oldest": "Oldest first",
    "apply": "Show",
    "clear": "Clear the filter",
    "without": "Take away the filter {name}",
    "today": "24 hours",
    "week": "7 days",
    "month": "30 days",
    "access": "With exports and looks",
    # Around the events.
    "count": "{count} events",
    "count_one": "1 event",
    "export_csv": "Export {count} as CSV",
    "export_json": "Export {count} as JSON lines",
    "none": "There are no events that fit.",
    "none_at_all": "Nothing is recorded yet, or nothing that you may see.",
    "no_tenants": "The table says no tenants, so it is shown to those only who may see all.",
    "next_page": "Next page",
    "first_page": "First page",
    "wrong": "This cannot be asked: {reason}",
    "away": "The trail cannot be read now. The application's log says why.",
    "utc": "All times are in UTC.",
    "monday": "Monday",
    "tuesday": "Tuesday",
    "wednesday": "Wednesday",
    "thursday": "Thursday",
    "friday": "Friday",
    "saturday": "Saturday",
    "sunday": "Sunday",
}
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def checked_texts(given: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the whole table with these texts in place of the English ones.

    Raises :class:`AuditConfigurationError` for a text that the page does not have, and for a placeholder in one that
    the English text does not have.
    """
    given = given or {}
    unknown = sorted(given.keys() - ENGLISH.keys())
    if unknown:
        raise AuditConfigurationError(f"texts: the page has no text called {', '.join(unknown)}")
    for name, text in given.items():
        if not _placeholders(text) <= _placeholders(ENGLISH[name]):
            raise AuditConfigurationError(f"texts: {name} may hold no other placeholders than {ENGLISH[name]!r}")
    return {**ENGLISH, **given}


def _placeholders(text: str) -> set[str]:
    try:
        return {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise AuditConfigurationError(f"texts: {text[:60]!r} is no text with placeholders: {error}") from None
