-- The same for each partition by itself.
create or replace trigger {no_row_change} before update or delete on {table}
    for each row execute function {refuse_change}();
alter table {table} enable always trigger {no_row_change};

do $do$
declare
    partition regclass;
begin
    for partition in select inhrelid from pg_catalog.pg_inherits where inhparent = {table_literal}::regclass loop
        execute format(
            'create or replace trigger %I before truncate on %s for each statement execute function {refuse_change_in_format}()',
            {no_truncate_literal}, partition
        );
        execute format('alter table %s enable always trigger %I', partition, {no_truncate_literal});
    end loop;
end
$do$;
