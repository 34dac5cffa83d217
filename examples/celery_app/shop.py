"""Orders are placed by a worker, on behalf of whoever asked."""

from pathlib import Path

from celery import Celery

import otel_audit_exporter.integrations.celery  # noqa: F401  # the context travels with every task from here on
from otel_audit_exporter import audit_event, configure_audit

configure_audit()

app = Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
app.conf.task_ignore_result = True
for folder in ("queue", "control"):
    Path(folder).mkdir(exist_ok=True)


@app.task
def order_part(part_id: str) -> None:
    audit_event("order_part", entity_type="part", entity_id=part_id, new_values={"ordered": True})
