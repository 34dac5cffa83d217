-- No UPDATE, DELETE or TRUNCATE, by anybody, the owner and superusers included: write as another role.
-- It does not stop the owner from dropping the table or the triggers, nor from ALTER TABLE ... ALTER COLUMN ... USING,
-- which rewrites rows past all triggers (--event-triggers refuses these, where the platform allows it), nor whoever
-- reads and writes the files of the server. To notice that, keep a second copy elsewhere (two exporters).
create or replace function {refuse_change}() returns trigger
language plpgsql set search_path = pg_catalog as $function$
begin
    raise exception '% is refused: %.% is append-only', tg_op, tg_table_schema, tg_table_name
        using errcode = 'insufficient_privilege';
end
$function$;

create or replace trigger {no_change} before update or delete or truncate on {table}
    for each statement execute function {refuse_change}();
alter table {table} enable always trigger {no_change};
