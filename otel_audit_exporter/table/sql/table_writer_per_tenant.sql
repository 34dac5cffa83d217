-- The writer writes for the yachts in its token, and for no other. It does not stop a token with all yachts in it, nor a
-- created_by that is made up.
alter table {table} enable row level security;
grant execute on function {reader_yachts}() to {writer};
