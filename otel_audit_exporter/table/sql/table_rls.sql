-- Row-level security: who reads, reads the rows of the yachts in the token's claim "{claim}" (at its top, or in
-- app_metadata; one id or an array of them). Nobody writes without a policy; service_role goes past all of this.
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

create or replace function {reader_yachts}() returns setof {id_type}
language sql stable set search_path = pg_catalog as $function$
    select ids.id::{id_type}
    from
        (select nullif(current_setting('request.jwt.claims', true), '')::jsonb) as token (claims),
        lateral (values
            (token.claims -> {claim_literal}),
            (token.claims -> 'app_metadata' -> {claim_literal})
        ) as said (value),
        lateral jsonb_array_elements_text(
            case jsonb_typeof(said.value) when 'array' then said.value else jsonb_build_array(said.value) end
        ) as ids (id)
    where ids.id {id_pattern}
$function$;

grant usage on schema {schema} to {reader};
grant select on {table} to {reader};
grant execute on function {reader_yachts}() to {reader};

drop policy if exists {readers_policy} on {table};
create policy {readers_policy} on {table} for select to {reader}
    using (yacht_id in (select {reader_yachts}()));
