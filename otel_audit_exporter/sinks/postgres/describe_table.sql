-- Of table $1: the type of each column; the columns of each unique key that ON CONFLICT can name, shortest first; and
-- the index of each of them, where COPY does what INSERT does.
with t as (
    select c.oid, c.relkind as kind, c.relhasrules as rules
    from pg_catalog.pg_class c
    where c.oid = pg_catalog.to_regclass($1)
),
k as (
    select i.indnkeyatts as size, i.indexrelid as index, pg_catalog.json_agg(a.attname order by n.position) as columns
    from t
    join pg_catalog.pg_index i on i.indrelid = t.oid
    cross join pg_catalog.unnest(i.indkey::pg_catalog.int2[]) with ordinality as n(number, position)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = n.number
    where n.position <= i.indnkeyatts
        and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
    group by i.indexrelid, i.indnkeyatts
)
select
    (
        select pg_catalog.json_object_agg(a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod))
        from pg_catalog.pg_attribute a
        where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
    ),
    -- A view has no keys of its own: any column may be one of the table behind it, which the server knows.
    case when t.kind = 'v' then (
        select coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(a.attname) order by a.attnum), '[]')
        from pg_catalog.pg_attribute a
        where a.attrelid = t.oid and a.attnum > 0
    ) else (
        select coalesce(pg_catalog.json_agg(k.columns order by k.size, k.index), '[]') from k
    ) end,
    case when t.kind in ('r', 'p') and not t.rules and not pg_catalog.row_security_active(t.oid) then (
        select pg_catalog.json_agg(k.index::pg_catalog.int8 order by k.size, k.index) from k
    ) end
from t
