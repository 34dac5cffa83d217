-- The role that writes: it inserts, ignoring ids that are there, and can do nothing else. It sees the key, which
-- is how ids that are there are found.
-- It does not stop who has the writer's token from making rows up: any created_by, any created_at, and on a partitioned
-- table a second row of an id under another created_at. --received-at adds the time of arrival, which is nobody's to
-- say, and --writer-per-tenant keeps a token to the yachts that it names.
do $do$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = {writer_literal}) then
        create role {writer} nologin noinherit;
    end if;
    if exists (
        select from pg_catalog.pg_roles
        where rolname = 'authenticator' and not pg_catalog.pg_has_role(oid, {writer_literal}, 'member')
    ) then
        grant {writer} to authenticator; -- PostgREST becomes the role that a token names
    end if;
end
$do$;

revoke all on table {table} from {writer};
grant usage on schema {schema} to {writer};
grant insert ({columns}) on {table} to {writer};
grant select ({keys}) on {table} to {writer};

drop policy if exists {writer_inserts_policy} on {table};
create policy {writer_inserts_policy} on {table} for insert to {writer} with check ({writer_check});
drop policy if exists {writer_finds_policy} on {table};
create policy {writer_finds_policy} on {table} for select to {writer} using ({writer_check});
