"""The trail for people: a page, its export, and the same as JSON, for the readers whom the application lets in."""

from otel_audit_exporter.trail.identity import ALL, Reader
from otel_audit_exporter.trail.wsgi_asgi import trail_asgi_app, trail_wsgi_app

__all__ = ["ALL", "Reader", "trail_asgi_app", "trail_wsgi_app"]
