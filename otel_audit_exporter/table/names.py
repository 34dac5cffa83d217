"""The names that columns of audit tables usually have, and the field that each speaks of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_LISTED: Final[Mapping[str, str]] = {
    "record_id": "id record_id audit_id audit_record_id event_id log_id uuid event_uuid audit_uuid uid guid",
    "yacht_id": "yacht_id tenant_id org_id organization_id organisation_id account_id workspace_id company_id team_id"
    " customer_id vessel_id boat_id ship_id site_id client_id tenant org organization yacht vessel"
    " merchant_id owner_id",
    "entity_type": "entity_type resource_type table_name target_type object_type record_type subject_type"
    " auditable_type item_type model_name entity resource target object model relation table entity_name tablename",
    "action": "action event operation event_type action_type action_name verb activity op change_type"
    " operation_type audit_action kind",
    "entity_id": "entity_id resource_id target_id object_id record_id subject_id row_id auditable_id item_id"
    " entity_uuid resource_uuid record_pk row_pk pk",
    "user_id": "user_id actor_id performed_by created_by changed_by done_by author_id actor user user_uuid"
    " updated_by modified_by by_user employee_id member_id crew_id who username actor_user_id by_user_id"
    " actor_uuid",
    "timestamp": "created_at timestamp occurred_at inserted_at performed_at logged_at event_time event_at recorded_at"
    " changed_at action_at created created_on event_timestamp action_tstamp time ts at date_time when"
    " action_time",
    "old_values": "old_values old_data before old_value before_data previous_values old old_record previous old_row"
    " before_state prev before_values data_before old_state from before_json previous_state previous_value",
    "new_values": "new_values new_data after new_value after_data new new_record new_row after_state after_values"
    " data_after new_state to changes diff payload details data changed_fields after_json current_state"
    " current_value detail event_data change_set",
    "outcome": "outcome status result",
    "actor_type": "actor_type user_type actor_kind",
    "on_behalf_of": "on_behalf_of impersonated_by behalf_of",
    "metadata": "metadata meta context extra additional_data properties attributes info meta_json",
    "signature": "signature",
    "source_ip": "source_ip ip_address ip client_ip remote_addr ip_addr",
    "request_id": "request_id correlation_id",
    "user_agent": "user_agent useragent agent browser",
    "trace_id": "trace_id",
    "span_id": "span_id",
    "event_name": "event_name",
}
USUAL_NAMES: Final[Mapping[str, tuple[str, ...]]] = {field: tuple(listed.split()) for field, listed in _LISTED.items()}


# Words of which the names of columns consist that hold when an event happened, was recorded or last touched. Any other
# word may mean another time: when it expires, is due, or may go.
_OF_THE_EVENT: Final = (
    "at on time date timestamp tstamp ts tx stm clk utc created inserted updated modified changed occurred happened"
    " recorded logged performed executed received stored written added audited action event operation log entry row"
    " record audit create insert update change modification last start started"
)


def is_of_the_event(column: str) -> bool:
    """Tell whether a column of times has a name that speaks of the event itself."""
    return set(plain_name(column).split("_")) <= set(_OF_THE_EVENT.split())


_VERDICTS: Final = (
    "success succeeded successful is_success is_successful was_successful ok is_ok failed failure is_failed is_failure"
    " error is_error has_error"
)


def is_verdict(column: str) -> bool:
    """Tell whether a column of such a name says that something went well, or did not."""
    return plain_name(column) in _VERDICTS.split()


def plain_name(name: str) -> str:
    """Return a name as the list of usual names has it: `userId` is `user_id`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").replace(" ", "_")


def field_named(column: str) -> str | None:
    """Return the field that a column of this name usually takes; None where the name is not known."""
    return next((field for field, listed in USUAL_NAMES.items() if plain_name(column) in listed), None)
