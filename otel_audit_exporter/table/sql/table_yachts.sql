-- The yachts of a token: those in its claim "{claim}" (at its top, or in app_metadata; one id or an array of them).
-- A token is PostgREST's to check. Over a direct connection request.jwt.claims is a setting like any other, which the
-- role itself may set: there this tells tenants apart, and does not hold one back that lies.
create or replace function {reader_yachts}() returns setof {id_type}
language sql stable set search_path = pg_catalog as $function$
    select ids.id::{id_type}
    from
        (select nullif(current_setting('request.jwt.claims', true), '')::jsonb) as token (claims),
        lateral (values
            (token.claims -> {claim_literal}),
            (token.claims -> 'app_metadata' -> {claim_literal})
        ) as said (value),
        lateral jsonb_array_elements_text(
            case jsonb_typeof(said.value) when 'array' then said.value else jsonb_build_array(said.value) end
        ) as ids (id)
    where ids.id {id_pattern}
$function$;
