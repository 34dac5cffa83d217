-- What happened on this yacht, to this entity, by this user: the newest first.
create index if not exists {yacht_index} on {table} ({tenant}, created_at desc, id desc);
create index if not exists {entity_index} on {table} (entity_type, entity_id, created_at desc, id desc);
create index if not exists {user_index} on {table} ({actor}, created_at desc, id desc);
