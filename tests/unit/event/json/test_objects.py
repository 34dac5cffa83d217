"""Objects of applications and libraries are recorded by what they say, and nothing is loaded for it."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import django
import numpy as np
import pytest
import uuid_utils
from django.conf import settings as django_settings
from django.utils.functional import lazystr
from sqlalchemy import ForeignKey, create_engine, event, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    mapped_column,
    relationship,
)

from otel_audit_exporter import changed
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.json.libraries import duration_text
from otel_audit_exporter.event.json.objects import _told
from otel_audit_exporter.event.redaction import REDACTED, Redactor

ENCODER = Encoder(Redactor())
ID = "0191a000-0000-7000-8000-000000000001"


def recorded(value: object) -> Any:
    return json.loads(ENCODER.value(value))


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    _told.clear()


# -- SQLAlchemy ----------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Part(Base):
    __tablename__ = "part"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    api_token: Mapped[str]
    manual: Mapped[str | None] = mapped_column(deferred=True)
    made_at: Mapped[datetime | None] = mapped_column("made")
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owner.id"))
    owner: Mapped[Owner | None] = relationship()


class Bin(MappedAsDataclass, Base):
    __tablename__ = "bin"
    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[str]


@pytest.fixture
def session() -> Iterator[Session]:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Owner(id=7, name="ada"))
        session.add(Part(id=1, name="impeller", api_token="s3cret", manual="long", owner_id=7))
        session.add(Bin(id=1, place="A1"))
        session.commit()
        yield session
    engine.dispose()


@pytest.fixture
def queries(session: Session) -> list[str]:
    asked: list[str] = []
    event.listen(session.get_bind(), "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    return asked


WHOLE = {"id": 1, "name": "impeller", "api_token": REDACTED, "made_at": None, "owner_id": 7}


def test_a_sqlalchemy_row_is_recorded_by_columns_without_its_secrets(session: Session, queries: list[str]) -> None:
    part = session.scalars(select(Part)).one()
    queries.clear()
    assert recorded({"part": part}) == {"part": WHOLE | {"manual": "<not loaded>"}}
    assert queries == []


def test_what_sqlalchemy_has_not_loaded_is_not_loaded_for_the_audit(
    session: Session, queries: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    part, place = session.get_one(Part, 1), session.get_one(Bin, 1)
    session.commit()  # which expires them
    queries.clear()
    for _ in range(2):
        assert recorded(part) == dict.fromkeys([*WHOLE, "manual"], "<not loaded>") | {"id": 1, "api_token": REDACTED}
        assert recorded(place) == {"id": 1, "place": "<not loaded>"}
    assert queries == []
    assert [("Part" in text, "Bin" in text) for text in caplog.messages] == [(True, False), (False, True)]
    assert "made_at" in caplog.messages[0]
    assert "refresh" in caplog.messages[0]


def test_an_unset_attribute_of_a_new_object_is_no_unloaded_column() -> None:
    assert recorded(Part(name="new")) == {"name": "new"}


def test_a_row_of_a_sqlalchemy_query_is_recorded_by_its_columns(session: Session) -> None:
    row = session.execute(select(Part.id, Part.name, Part.api_token)).one()
    assert recorded(row) == recorded(row._mapping) == {"id": 1, "name": "impeller", "api_token": REDACTED}
    assert changed(row, dict(row._mapping) | {"name": "pump"}) == ({"name": "impeller"}, {"name": "pump"})


# -- Django --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ship() -> Any:
    if not django_settings.configured:
        django_settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}, USE_TZ=True
        )
        django.setup()
    from django.db import connection, models  # needs the settings

    class Ship(models.Model):  # type: ignore[misc]  # Django has no types here
        name = models.CharField(max_length=20)
        password = models.CharField(max_length=20)
        log = models.TextField()
        plan = models.FileField()
        sister = models.ForeignKey("self", null=True, on_delete=models.CASCADE)

        class Meta:
            app_label = "recorded"

    with connection.schema_editor() as editor:
        editor.create_model(Ship)
    first = Ship.objects.create(name="Argo", password="s3cret", log="...", plan="argo.pdf")
    Ship.objects.create(name="Beagle", password="s3cret", log="...", plan="b.pdf", sister=first)
    yield Ship
    with connection.schema_editor() as editor:
        editor.delete_model(Ship)


def test_a_django_model_is_recorded_by_columns_and_loads_nothing(ship: Any) -> None:
    from django.db import connection  # needs the settings
    from django.test.utils import CaptureQueriesContext  # the same

    whole, deferring = ship.objects.get(name="Beagle"), ship.objects.defer("log").get(name="Beagle")
    with CaptureQueriesContext(connection) as queries:
        shown = recorded([whole, deferring])
    assert len(queries) == 0
    expected = {"id": 2, "name": "Beagle", "password": REDACTED, "log": "...", "plan": "b.pdf", "sister_id": 1}
    assert shown == [expected, expected | {"log": "<not loaded>"}]


def test_two_objects_of_one_row_are_compared_by_their_columns(ship: Any) -> None:
    old, new = ship.objects.get(name="Beagle"), ship.objects.get(name="Beagle")
    assert changed(old, new) == ({}, {})
    new.name = "HMS Beagle"
    assert old == new  # what Django says of two objects with one key
    assert changed(old, new) == ({"name": "Beagle"}, {"name": "HMS Beagle"})
    assert changed({"ship": old}, {"ship": new}) == ({"ship": {"name": "Beagle"}}, {"ship": {"name": "HMS Beagle"}})


# -- objects of the application's own -------------------------------------------------------------------------------


class Plain:
    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


class Slotted:
    __slots__ = ("_hidden", "name", "never", "password")

    def __init__(self, name: str) -> None:
        self.name, self.password, self._hidden = name, "s3cret", 1


class Named(Plain):
    def __str__(self) -> str:
        return "a name"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named)

    __hash__ = object.__hash__


class Asking(Plain):
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    @property
    def costly(self) -> Any:
        raise AssertionError("asked")


def test_an_object_of_plain_members_is_recorded_by_them(caplog: pytest.LogCaptureFixture) -> None:
    plain = Plain(name="a", password="s3cret", tags=["x", {"y": Decimal("1.5")}], _state=object())
    assert recorded(plain) == {"name": "a", "password": REDACTED, "tags": ["x", {"y": "1.5"}]}
    assert recorded([Slotted("b"), Named(a=1)]) == [{"name": "b", "password": REDACTED}, {"a": 1}]
    assert caplog.messages == []


@pytest.mark.parametrize("value", [Plain(a=object()), Plain(), Plain(a=[[object()]]), Asking(a=1), object(), Plain])
def test_any_other_object_is_recorded_by_its_text_with_one_warning(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        assert recorded([value])[0] == f"<{type(value).__module__}.{type(value).__qualname__}> {value}"
    (told,) = caplog.messages
    assert type(value).__qualname__ in told
    assert "new_values" in told
    assert "0x" not in told


def test_members_can_be_left_out_of_the_record() -> None:
    plain = Plain(a=1)
    assert json.loads(Encoder(Redactor(), members=False).value([plain])) == [f"<{__name__}.Plain> {plain}"]


def test_objects_are_compared_by_what_is_recorded_of_them() -> None:
    assert changed(Named(a=1), Named(a=2)) == ({"a": 1}, {"a": 2})
    assert changed(Named(a=1), Named(a=1)) == ({}, {})
    one, other = Named(_a=1), Named(_a=2)  # equal to themselves, and nothing is known of what is inside
    assert changed({"x": one}, {"x": other}) == ({"x": one}, {"x": other})
    assert changed({"x": one}, {"x": one}) == ({}, {})


# -- values of libraries ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Ulid:
    pass


class ULID:
    def __str__(self) -> str:
        return "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(1.5), 1.5),
        (np.float64("nan"), "NaN"),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.datetime64("2026-05-01T12:00:00.000000001"), "2026-05-01T12:00:00.000000001"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.arange(3000), list(range(3000))),
        (Path("/tmp/a"), "/tmp/a"),
        (PurePosixPath("a/b"), "a/b"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (ipaddress.ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
        (ipaddress.ip_network("2001:db8::/32"), "2001:db8::/32"),
        (timedelta(days=1, hours=2, seconds=3, microseconds=500_000), "P1DT2H3.5S"),
        (-timedelta(minutes=5), "-PT5M"),
        (lazystr("Teil"), "Teil"),
        (uuid_utils.UUID(ID), ID),
        (UUID(ID), ID),
        (ULID(), "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        (Fraction(1, 3), "1/3"),
        (ZoneInfo("Europe/Madrid"), "Europe/Madrid"),
        (UTC, "UTC"),
        (re.compile("a+"), "a+"),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.items(), [["a", 1]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_a_library_is_recorded_by_what_it_says(
    value: object, expected: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert recorded([value]) == [expected]
    assert changed({"x": value}, {"x": value}) == ({}, {})
    assert caplog.messages == []


def test_an_optional_package_is_known_by_its_class_names() -> None:
    def of(name: str, module: str, base: type = object, **members: Any) -> Any:
        cls: Any = type(name, (base,), {"__module__": module, **members})
        return cls() if base is object else cls(2026, 5, 1, tzinfo=UTC)

    assert recorded(of("NAType", "pandas._libs.missing")) is None
    assert recorded([of("Series", "pandas.core.series", tolist=lambda self: [1, None])]) == [[1, None]]
    frame = of("DataFrame", "pandas.core.frame", to_dict=lambda self, how: [{"a": 1, "password": "x"}])
    assert recorded([frame]) == [[{"a": 1, "password": REDACTED}]]
    assert recorded(of("Timestamp", "pandas._libs.tslibs.timestamps", datetime)) == "2026-05-01T00:00:00.000000+00:00"
    assert recorded(of("NaTType", "pandas._libs.tslibs.nattype")) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(0), "PT0S"),
        (timedelta(days=2), "P2D"),
        (timedelta(hours=30), "P1DT6H"),
        (timedelta(seconds=61), "PT1M1S"),
        (timedelta(microseconds=1), "PT0.000001S"),
        (timedelta(microseconds=-1), "-PT0.000001S"),
        (timedelta.max, "P999999999DT23H59M59.999999S"),
    ],
)
def test_a_duration_reads_as_iso_8601_has_it(value: timedelta, text: str) -> None:
    assert duration_text(value) == text


def test_an_exception_is_recorded_by_its_text_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert recorded([LookupError("no such part")]) == ["<builtins.LookupError> no such part"]
    assert caplog.messages == []
