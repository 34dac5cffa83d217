create table if not exists {table} (
    id uuid primary key,
    {tenant} {id_type} not null,
    entity_type text not null,
    action text not null,
    entity_id {id_type} not null,
    {actor} {id_type}, -- null where no user acts, but a service
    created_at timestamptz not null default now(),
    old_values jsonb,
    new_values jsonb
);
