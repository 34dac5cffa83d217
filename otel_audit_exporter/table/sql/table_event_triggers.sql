-- No ALTER TABLE (ALTER COLUMN ... USING and DISABLE TRIGGER included), no DROP of the table, its triggers or policies.
-- It does not stop a superuser, nor the owner of the event triggers: they can drop these first, which shows in the
-- server's log. Where the role that runs this may not make event triggers, it says so and leaves them out.
do $do$
begin
    -- With the table's number, as a command that gives it another name is refused, too.
    execute replace($text$
create or replace function {guard}() returns event_trigger
language plpgsql set search_path = pg_catalog as $function$
declare
    hit boolean;
begin
    if tg_event = 'table_rewrite' then
        hit := pg_event_trigger_table_rewrite_oid() = TABLE_NUMBER;
    elsif tg_event = 'ddl_command_end' then
        hit := exists (
            select from pg_event_trigger_ddl_commands() as done
            where done.classid = 'pg_class'::regclass and done.objid = TABLE_NUMBER
        );
    else
        hit := exists (
            select from pg_event_trigger_dropped_objects() as gone
            where (gone.classid = 'pg_class'::regclass and gone.objid = TABLE_NUMBER)
                or (gone.object_type in ('trigger', 'policy', 'table constraint')
                    and right(gone.object_identity, {identity_length}) = {on_table_identity_literal})
        );
    end if;
    if hit then
        raise exception '% is refused: the audit table %.% is guarded', tg_tag, {schema_literal}, {name_literal}
            using errcode = 'insufficient_privilege',
            hint = 'To change it on purpose, drop its event triggers, and run the script of otel-audit schema after it.';
    end if;
end
$function$
    $text$, 'TABLE_NUMBER', {table_literal}::regclass::oid::text);
end
$do$;
revoke all on function {guard}() from public;

do $do$
begin
    create event trigger {guard_alter} on ddl_command_end when tag in ('ALTER TABLE') execute function {guard}();
    create event trigger {guard_rewrite} on table_rewrite execute function {guard}();
    create event trigger {guard_drop} on sql_drop execute function {guard}();
    alter event trigger {guard_alter} enable always;
    alter event trigger {guard_rewrite} enable always;
    alter event trigger {guard_drop} enable always;
exception when insufficient_privilege then
    raise warning 'event triggers are not for % to make: the owner of the audit table can still alter and drop it',
        current_user;
end
$do$;
