-- Row-level security: who reads, reads the rows of the yachts in the token's claim. Nobody writes without a policy.
-- It does not stop service_role and other roles with BYPASSRLS, nor the table's owner: they read and write every row.
do $do$
declare
    who text;
begin
    if not exists (select from pg_catalog.pg_roles where rolname = {reader_literal}) then
        create role {reader} nologin;
        if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
            grant {reader} to authenticator; -- PostgREST becomes the role that a token names
        end if;
    end if;
    for who in
        select rolname from pg_catalog.pg_roles where rolname in ('anon', 'authenticated', {reader_literal})
    loop
        execute format('revoke all on table {table_in_format} from %I', who);
    end loop;
end
$do$;

alter table {table} enable row level security;

grant usage on schema {schema} to {reader};
grant select on {table} to {reader};
grant execute on function {reader_yachts}() to {reader};

drop policy if exists {readers_policy} on {table};
create policy {readers_policy} on {table} for select to {reader}
    using ({tenant} in (select {reader_yachts}()));
