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
            'type', pg_catalog.format_type(t.id, t.modifier),
            'not_null', a.attnotnull or t.not_null,
            'filled', a.atthasdef or a.attidentity <> '' or coalesce(t.filled, false),
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
                where k.contype = 'c' and (k.conrelid = c.oid and k.conkey = array[a.attnum] or k.contypid = any (t.domains))
            ),
            'generated', a.attgenerated <> '' or a.attidentity = 'a',
            'labels', (
                select pg_catalog.json_agg(e.enumlabel order by e.enumsortorder)
                from pg_catalog.pg_enum e
                where e.enumtypid = t.id
            ),
            'insert', pg_catalog.has_column_privilege(c.oid, a.attnum, 'insert'),
            'select', pg_catalog.has_column_privilege(c.oid, a.attnum, 'select')
        ) order by a.attnum), '[]')
        from pg_catalog.pg_attribute a
        -- The type itself, and the domains over it that it is called by, the last of which names its length.
        cross join lateral (
            with recursive chain as (
                select p.oid, p.typtype, p.typbasetype, p.typtypmod, p.typnotnull, p.typdefault, a.atttypmod as modifier
                from pg_catalog.pg_type p where p.oid = a.atttypid
                union all
                select p.oid, p.typtype, p.typbasetype, p.typtypmod, p.typnotnull, p.typdefault, d.typtypmod
                from chain d join pg_catalog.pg_type p on p.oid = d.typbasetype where d.typtype = 'd'
            )
            select
                pg_catalog.max(oid) filter (where typtype <> 'd') as id,
                pg_catalog.max(modifier) filter (where typtype <> 'd') as modifier,
                pg_catalog.array_agg(oid) filter (where typtype = 'd') as domains,
                pg_catalog.bool_or(typnotnull) as not_null,
                pg_catalog.bool_or(typdefault is not null) filter (where typtype = 'd') as filled
            from chain
        ) t
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
