"""The operations page under the path that applications import: see :mod:`otel_audit_exporter.operations.wsgi_asgi`."""

from otel_audit_exporter.operations.wsgi_asgi import operations_asgi, operations_wsgi

__all__ = ["operations_asgi", "operations_wsgi"]
