-- The same for what has a column of its own.
create index if not exists {outcome_index} on {table} (outcome, created_at desc, id desc) where outcome <> 'success';
create index if not exists {trace_index} on {table} (trace_id, created_at desc, id desc) where trace_id is not null;
create index if not exists {request_index} on {table} (request_id, created_at desc, id desc) where request_id is not null;
