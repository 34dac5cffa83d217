create table if not exists {table} (
    id uuid not null,
    {tenant} {id_type} not null,
    entity_type text not null,
    action text not null,
    entity_id {id_type} not null,
    {actor} {id_type}, -- null where no user acts, but a service
    created_at timestamptz not null default now(),
    old_values jsonb,
    new_values jsonb,
    primary key (id, created_at)
) partition by range (created_at);

-- Makes one partition. Nobody but the owner gets at it other than through the table itself.
create or replace function {make_partition}(partition text, bounds text) returns void
language plpgsql set search_path = pg_catalog as $function$
declare
    other text;
begin
    execute format('create table %I.%I partition of {table_in_format} %s', {schema_literal}, partition, bounds);
    execute format('alter table %I.%I enable row level security', {schema_literal}, partition);
    for other in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
        execute format('revoke all on table %I.%I from %I', {schema_literal}, partition, other);
    end loop;
    if to_regproc({refuse_change_literal}) is not null then
        execute format(
            'create trigger %I before truncate on %I.%I for each statement execute function {refuse_change_in_format}()',
            {no_truncate_literal}, {schema_literal}, partition
        );
        execute format(
            'alter table %I.%I enable always trigger %I', {schema_literal}, partition, {no_truncate_literal}
        );
    end if;
end
$function$;

-- Makes the partitions of these months, in UTC, and a default one for all other rows. Rows of these months that
-- are in the default one move to their own.
create or replace function {make_partitions}(months_ahead integer default {months_ahead}, months_back integer default 0)
returns void
-- Whoever reads for long keeps it waiting, and it keeps the writers: it gives up in time, and the next call makes up.
language plpgsql set search_path = pg_catalog set timezone = 'UTC' set lock_timeout = '10s' as $function$
declare
    this_month timestamp := date_trunc('month', now() at time zone 'UTC');
    month timestamp;
    missing timestamp[] := '{}';
    move boolean := false;
    found boolean;
begin
    perform pg_advisory_xact_lock(hashtextextended({table_literal}, 0));
    if to_regclass({default_partition_literal}) is null then
        perform {make_partition}({default_name_literal}, 'default');
    end if;
    for month in
        select generate_series(
            this_month - make_interval(months => months_back),
            this_month + make_interval(months => months_ahead),
            interval '1 month'
        )
    loop
        if to_regclass(format('%I.%I', {schema_literal}, {partition_prefix_literal} || to_char(month, 'YYYY_MM')))
            is null
        then
            missing := missing || month;
            execute 'select exists (select from {default_partition_in_string} where created_at >= $1 and created_at < $2)'
                into found using month at time zone 'UTC', (month + interval '1 month') at time zone 'UTC';
            move := move or found;
        end if;
    end loop;
    if move then
        execute 'alter table {table_in_string} detach partition {default_partition_in_string}';
        execute 'alter table {default_partition_in_string} rename to {moving_name_in_string}';
        perform {make_partition}({default_name_literal}, 'default');
    end if;
    foreach month in array missing loop
        perform {make_partition}(
            {partition_prefix_literal} || to_char(month, 'YYYY_MM'),
            format(
                'for values from (%L) to (%L)',
                month at time zone 'UTC',
                (month + interval '1 month') at time zone 'UTC'
            )
        );
    end loop;
    if move then
        execute 'insert into {table_in_string} select * from {moving_in_string}';
        execute 'drop table {moving_in_string}';
    end if;
end
$function$;

do $do$
declare
    who text;
    what text;
begin
    foreach what in array array[{make_partition_signature}, {make_partitions_signature}] loop
        execute format('revoke all on function %s from public', what);
        for who in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
            execute format('revoke all on function %s from %I', what, who);
        end loop;
    end loop;
end
$do$;

-- To be called once a month or oftener, by the table's owner. With pg_cron:
-- select cron.schedule('make audit partitions', '0 3 * * *', $$select {make_partitions}()$$);
select {make_partitions}();
