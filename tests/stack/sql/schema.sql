create schema audit;
-- Exposed beside the others so that a reload of PostgREST's schema cache can be waited for.
create schema marker;
grant usage on schema public, audit to anon, authenticated, service_role, audit_writer;
grant usage on schema marker to service_role;

create table public.pms_audit_log (
    id uuid primary key,
    yacht_id uuid not null,
    entity_type text not null,
    action text not null,
    entity_id uuid not null,
    created_by uuid not null,
    created_at timestamptz not null default now(),
    old_values jsonb,
    new_values jsonb
);
