-- Drops the partitions whose rows are all older than so many whole months, and says which. What is in the default
-- partition stays: give it partitions first, with the months_back of {make_partitions}.
create or replace function {drop_partitions}(keep_months integer default {retention_months}) returns setof text
language plpgsql set search_path = pg_catalog set timezone = 'UTC' set datestyle = 'ISO' set lock_timeout = '10s'
as $function$
declare
    cutoff timestamptz := (
        date_trunc('month', now() at time zone 'UTC') - make_interval(months => keep_months)
    ) at time zone 'UTC';
    old regclass;
begin
    if keep_months is null or keep_months < 1 then
        raise exception 'keep_months must be 1 or more';
    end if;
    for old in
        select c.oid
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = {table_literal}::regclass
            and substring(pg_get_expr(c.relpartbound, c.oid) from 'TO \(''([^'']+)''\)')::timestamptz <= cutoff
        order by c.relname
    loop
        execute format('drop table %s', old);
        return next old::text;
    end loop;
end
$function$;

do $do$
declare
    who text;
begin
    revoke all on function {drop_partitions}(integer) from public;
    for who in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
        execute format('revoke all on function %s from %I', {drop_partitions_signature}, who);
    end loop;
end
$do$;

-- To be called by the table's owner. With pg_cron:
-- select cron.schedule('drop old audit partitions', '30 3 1 * *', $$select {drop_partitions}()$$);
