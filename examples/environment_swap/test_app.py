"""The same code, its events looked at."""

import app


def test_using_a_part_is_audited(audit_log):
    app.main()
    audit_log.assert_recorded(
        action="use_part",
        entity_id=app.PART,
        old_values={"name": "impeller", "stock": 3},
        new_values={"name": "impeller", "stock": 2},
    )
