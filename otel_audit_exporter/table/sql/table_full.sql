-- Everything else that an event says, each in a column of its own.
alter table {table}
    add column if not exists outcome text not null default 'success'
        check (outcome in ('success', 'failure', 'unknown')),
    add column if not exists actor_type text not null default 'user'
        check (actor_type in ('user', 'service', 'system')),
    add column if not exists metadata jsonb,
    add column if not exists signature jsonb,
    add column if not exists source_ip inet, -- personal data, as user_agent is: see how long you may keep it
    add column if not exists user_agent text,
    add column if not exists request_id text,
    add column if not exists trace_id text,
    add column if not exists span_id text;
