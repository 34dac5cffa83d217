-- As Supabase does it: everybody has the grants, row-level security decides; service_role passes it by.
grant all on {table} to anon, authenticated, service_role;
alter table {table} enable row level security;

-- What an insert that ignores known ids needs, and no more.
grant insert, select (id) on {table} to audit_writer;
create policy audit_writer_inserts on {table} for insert to audit_writer with check (true);
create policy audit_writer_finds_ids on {table} for select to audit_writer using (true);
