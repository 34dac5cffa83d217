"""A spare parts shop in one file: every order is audited."""

from uuid import UUID

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from otel_audit_exporter import audit_event, configure_audit


def identify(request: HttpRequest) -> dict[str, str | None]:
    """Say who asks. With Django's own users: `otel_audit_exporter.integrations.django.signed_in_user`."""
    return {"user_id": request.headers.get("X-User"), "yacht_id": request.headers.get("X-Yacht")}


settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["otel_audit_exporter.integrations.django.AuditMiddleware"],
    OTEL_AUDIT_IDENTIFY="shop.identify",
)
django.setup()
configure_audit()


@csrf_exempt
def order_part(request: HttpRequest, part_id: UUID) -> JsonResponse:
    audit_event("order_part", entity_type="part", entity_id=part_id, new_values={"ordered": True})
    return JsonResponse({"ordered": part_id})


urlpatterns = [path("parts/<uuid:part_id>/order", order_part)]
application = get_wsgi_application()
