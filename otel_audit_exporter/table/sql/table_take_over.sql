-- What was kept under "_audit" before these columns were there moves into them. A row that is append-only stays as it
-- is: it is read back from where it lies.
create or replace function pg_temp.as_inet(address text) returns inet language plpgsql as $function$
begin
    return address::inet;
exception when others then
    return null;
end
$function$;

do $do$
begin
    update {table} as t set
        outcome = coalesce(kept.fields ->> 'outcome', t.outcome),
        actor_type = coalesce(kept.fields ->> 'actor_type', t.actor_type),
        metadata = case
            when t.metadata is not null then t.metadata
            when kept.moves_behalf
                then jsonb_build_object('on_behalf_of', kept.fields -> 'on_behalf_of')
                    || coalesce(kept.fields -> 'metadata', '{}')
            else kept.fields -> 'metadata'
        end,
        signature = coalesce(t.signature, kept.fields -> 'signature'),
        source_ip = coalesce(t.source_ip, pg_temp.as_inet(kept.fields ->> 'source_ip')),
        user_agent = coalesce(t.user_agent, kept.fields ->> 'user_agent'),
        request_id = coalesce(t.request_id, kept.fields ->> 'request_id'),
        trace_id = coalesce(t.trace_id, kept.fields ->> 'trace_id'),
        span_id = coalesce(t.span_id, kept.fields ->> 'span_id'),
        new_values = case
            when kept.rest <> '{}'::jsonb then t.new_values || jsonb_build_object('_audit', kept.rest)
            when t.new_values ? 'value' and (select count(*) from jsonb_object_keys(t.new_values)) = 2
                then t.new_values -> 'value'
            else nullif(t.new_values - '_audit', '{}'::jsonb)
        end
    from (
        select
            f.key, f.fields, f.moves_behalf,
            f.fields
                - array['outcome', 'actor_type', 'signature', 'user_agent', 'request_id', 'trace_id', 'span_id']
                - case when f.had_metadata then array[]::text[] else array['metadata'] end
                - case when f.moves_behalf then array['on_behalf_of'] else array[]::text[] end
                - case when pg_temp.as_inet(f.fields ->> 'source_ip') is null then array[]::text[] else array['source_ip'] end
                as rest
        from (
            select
                o.{key} as key,
                o.new_values -> '_audit' as fields,
                o.metadata is not null as had_metadata,
                o.metadata is null and (o.new_values -> '_audit') ? 'on_behalf_of'
                    and not coalesce(o.new_values -> '_audit' -> 'metadata', '{}') ?| array['on_behalf_of', 'metadata']
                    as moves_behalf
            from {table} as o
            where jsonb_typeof(o.new_values -> '_audit') = 'object'
                and (o.new_values -> '_audit') - array[{fields}] = '{}'::jsonb
                and o.outcome = 'success' and o.actor_type = 'user'
        ) as f
    ) as kept
    where t.{key} = kept.key;
exception when insufficient_privilege then
    raise warning 'the rows are append-only: what lies in "_audit" stays there, and is read back from there';
end
$do$;
