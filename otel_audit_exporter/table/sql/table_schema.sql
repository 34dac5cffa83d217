-- Asked for first: who may not create schemas can still fill one.
do $do$
begin
    if not exists (select from pg_catalog.pg_namespace where nspname = {schema_literal}) then
        create schema {schema};
    end if;
end
$do$;
