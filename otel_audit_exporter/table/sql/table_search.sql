-- A part of a text in the values: found by trigrams, never by looking at every row.
create extension if not exists pg_trgm;
alter table {table} add column if not exists audit_search text generated always as (
    coalesce(old_values::text, '') || ' ' || coalesce(new_values::text, '')
) stored;
create index if not exists {search_index} on {table} using gin (audit_search gin_trgm_ops);
