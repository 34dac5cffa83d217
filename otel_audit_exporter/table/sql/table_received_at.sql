-- When a row arrived, by the database's clock. The trigger overwrites whatever was sent, so that a created_at that was
-- made up stands beside a time that was not. It does not stop the owner, who can drop the trigger.
alter table {table} add column if not exists received_at timestamptz not null default clock_timestamp();

create or replace function {stamp}() returns trigger
language plpgsql set search_path = pg_catalog as $function$
begin
    new.received_at := clock_timestamp();
    return new;
end
$function$;

create or replace trigger {stamp_trigger} before insert on {table} for each row execute function {stamp}();
alter table {table} enable always trigger {stamp_trigger};
