-- No UPDATE, DELETE or TRUNCATE, by anybody, the owner and superusers included. Who owns the table can still drop
-- it, or drop the triggers: write as another role.
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
