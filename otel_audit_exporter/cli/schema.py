"""`otel-audit schema`: the audit table as plain SQL."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.table.ddl import TablePlan


class Ids(str, Enum):  # noqa: UP042  # typer shows the values of a str enum
    """What the ids of yachts, entities and users are."""

    uuid = "uuid"
    text = "text"


def schema(
    full: Annotated[
        bool,
        typer.Option("--full", help="A column for everything else that an event says, source and trace included."),
    ] = False,
    add: Annotated[
        bool,
        typer.Option(
            "--add", help="Add to a table that is there what the full one has, and move there what lies in _audit."
        ),
    ] = False,
    tenant_column: Annotated[str, typer.Option(metavar="NAME", help="The column for the tenant.")] = "yacht_id",
    actor_column: Annotated[str, typer.Option(metavar="NAME", help="The column for who did it.")] = "created_by",
    indexes: Annotated[
        bool, typer.Option("--indexes", help="Indexes for everything that events are asked for by.")
    ] = False,
    search: Annotated[
        bool, typer.Option("--search", help="A column and an index for text in the values (extension pg_trgm).")
    ] = False,
    rls: Annotated[
        bool,
        typer.Option("--rls", help="Row-level security: who reads, reads the rows of the yachts in the token."),
    ] = False,
    writer_role: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A role that can insert and nothing else; made if it is not there."),
    ] = None,
    writer_per_tenant: Annotated[
        bool, typer.Option("--writer-per-tenant", help="The writer writes rows of the yachts in its token only.")
    ] = False,
    received_at: Annotated[
        bool, typer.Option("--received-at", help="When a row arrived, by the database's clock; nobody can set it.")
    ] = False,
    append_only: Annotated[
        bool, typer.Option("--append-only", help="No UPDATE, DELETE or TRUNCATE, for the owner neither.")
    ] = False,
    event_triggers: Annotated[
        bool,
        typer.Option("--event-triggers", help="No ALTER or DROP of the table, where the platform allows it."),
    ] = False,
    partitioned: Annotated[
        bool, typer.Option("--partitioned", help="Partitions by month, made ahead, and a default one.")
    ] = False,
    retention_months: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="A function that drops partitions older than N whole months."),
    ] = None,
    reader_role: Annotated[
        str, typer.Option(metavar="NAME", help="Who reads under --rls; made if it is not there.")
    ] = "authenticated",
    yacht_claim: Annotated[
        str, typer.Option(metavar="NAME", help="The token's claim with the yacht's id, or an array of them.")
    ] = "yacht_id",
    ids: Annotated[
        Ids | None, typer.Option(help="The type of the ids of yachts, entities and users (OTEL_AUDIT_IDS).")
    ] = None,
    table: Annotated[str | None, typer.Option(help="The table (OTEL_AUDIT_TABLE).")] = None,
    in_schema: Annotated[str | None, typer.Option("--schema", help="Its schema (OTEL_AUDIT_SCHEMA).")] = None,
) -> None:
    """Print SQL that makes the audit table: plain, for PostgreSQL, and without harm where it has run before.

    otel-audit schema --full --indexes --rls --writer-role audit_writer --append-only | psql "$DATABASE_URL"

    Comments at its top say the settings that fit the table. Nothing is connected to.
    """
    arguments = {"table": table, "schema": in_schema, "ids": ids.value if ids else None}
    settings = load_settings(arguments)
    plan = TablePlan(
        table=settings.table,
        schema=settings.schema,
        ids=settings.ids,
        full=full or add,
        add=add,
        tenant_column=tenant_column,
        actor_column=actor_column,
        indexes=indexes,
        search=search,
        rls=rls,
        reader_role=reader_role,
        yacht_claim=yacht_claim,
        writer_role=writer_role,
        writer_per_tenant=writer_per_tenant,
        received_at=received_at,
        append_only=append_only,
        event_triggers=event_triggers,
        partitioned=partitioned,
        retention_months=retention_months,
    )
    print(plan.sql())
