select pg_catalog.json_build_object(
    'role', current_user,
    'usage', pg_catalog.has_schema_privilege(n.oid, 'usage'),
    'secured', pg_catalog.row_security_active(c.oid),
    'policies', (
        select coalesce(pg_catalog.json_agg(p.polcmd), '[]')
        from pg_catalog.pg_policy p
        where p.polrelid = c.oid and p.polpermissive and (
            0 = any (p.polroles)
            or exists (
                select from pg_catalog.unnest(p.polroles) as r (id) where pg_catalog.pg_has_role(current_user, r.id, 'usage')
            )
        )
    ),
    'columns', (
        select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
            'name', a.attname,
            'type', pg_catalog.format_type(
                case when t.typtype = 'd' then t.typbasetype else a.atttypid end,
                case when t.typtype = 'd' then t.typtypmod else a.atttypmod end
            ),
            'not_null', a.attnotnull or t.typnotnull,
            'filled', a.atthasdef or a.attidentity <> '' or t.typdefault is not null,
            'default', case when a.attgenerated = '' then pg_catalog.pg_get_expr(d.adbin, d.adrelid) end,
            'identity', a.attidentity <> '',
            'references', (
                select pg_catalog.format('%%s (%%s)', f.confrelid::pg_catalog.regclass, r.attname)
                from pg_catalog.pg_constraint f
                join pg_catalog.pg_attribute r on r.attrelid = f.confrelid and r.attnum = f.confkey[1]
                where f.conrelid = c.oid and f.contype = 'f' and f.conkey = array[a.attnum] limit 1
            ),
            'checks', (
                select pg_catalog.json_agg(pg_catalog.pg_get_constraintdef(k.oid))
                from pg_catalog.pg_constraint k
                where k.conrelid = c.oid and k.contype = 'c' and k.conkey = array[a.attnum]
            ),
            'generated', a.attgenerated <> '' or a.attidentity = 'a',
            'labels', (
                select pg_catalog.json_agg(e.enumlabel order by e.enumsortorder)
                from pg_catalog.pg_enum e
                where e.enumtypid = case when t.typtype = 'd' then t.typbasetype else t.oid end
            ),
            'insert', pg_catalog.has_column_privilege(c.oid, a.attnum, 'insert'),
            'select', pg_catalog.has_column_privilege(c.oid, a.attnum, 'select')
        ) order by a.attnum), '[]')
        from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
        left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ),
    -- A view has no keys of its own: any column may be one of the table behind it, which the server knows.
    'keys', case when c.relkind = 'v' then (
        select coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(a.attname) order by a.attnum), '[]')
        from pg_catalog.pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0
    ) else (
        select coalesce(pg_catalog.json_agg(k.columns), '[]')
        from (
            select pg_catalog.json_agg(a.attname order by u.position) as columns
            from pg_catalog.pg_index i
            cross join pg_catalog.unnest(i.indkey::pg_catalog.int2[]) with ordinality as u (number, position)
            join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.number
            where i.indrelid = c.oid and u.position <= i.indnkeyatts
                and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
            group by i.indexrelid
        ) k
    ) end
)::text
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'p', 'v', 'f')
