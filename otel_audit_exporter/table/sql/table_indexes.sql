-- What happened on this yacht, to this entity, by this user, of this kind, or at all: the newest first. Those with
-- operators for patterns also find text with which an action, an entity or a user begins.
-- Read through PostgREST, a large table needs its answers planned for what is asked, not for what is usual:
--     alter role authenticator set plan_cache_mode = 'force_custom_plan';
create index if not exists {yacht_index} on {table} ({tenant}, created_at desc, id desc);
create index if not exists {entity_index} on {table} (entity_type, entity_id, created_at desc, id desc);
create index if not exists {entity_type_index} on {table} (entity_type text_pattern_ops, created_at desc, id desc);
create index if not exists {entity_id_index} on {table} (entity_id{id_operators}, created_at desc, id desc);
create index if not exists {user_index} on {table} ({actor}{id_operators}, created_at desc, id desc);
create index if not exists {action_index} on {table} (action text_pattern_ops, created_at desc, id desc);
create index if not exists {time_index} on {table} (created_at desc, id desc);
-- The same for one tenant, where the newest and how many there are should not take a look at all that it has.
create index if not exists {yacht_type_index} on {table}
    ({tenant}, entity_type text_pattern_ops, created_at desc, id desc);
create index if not exists {yacht_action_index} on {table}
    ({tenant}, action text_pattern_ops, created_at desc, id desc);
create index if not exists {yacht_user_index} on {table}
    ({tenant}, {actor}{id_operators}, created_at desc, id desc);
-- What is kept under `_audit` where no column takes it. Few rows have it, so these are small.
create index if not exists {folded_outcome_index} on {table}
    ((new_values -> '_audit' ->> 'outcome'), created_at desc, id desc)
    where (new_values -> '_audit' ->> 'outcome') is not null;
create index if not exists {folded_request_index} on {table}
    ((new_values -> '_audit' ->> 'request_id'), created_at desc, id desc)
    where (new_values -> '_audit' ->> 'request_id') is not null;
create index if not exists {folded_trace_index} on {table}
    ((new_values -> '_audit' ->> 'trace_id'), created_at desc, id desc)
    where (new_values -> '_audit' ->> 'trace_id') is not null;
