-- The roles of a Supabase project, and the least-privileged one that an audit writer needs.
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role audit_writer login noinherit password {password};
create role authenticator login noinherit password {password};
grant anon, authenticated, service_role, audit_writer to authenticator;
