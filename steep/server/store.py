"""Responses in a database: what was asked, the tokens so far, and which server is at work on them.

    add ─► queued ─► claim ─► in_progress: save, save, ... ─► completed | incomplete | cancelled | failed
                       ▲             │
                       └─ lease over ┘

A claim is a lease in its owner's name, which each `save` renews. Who is no longer the owner saves nothing; so whenever
servers die, stall or come back, a response has one sequence of tokens and one end.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
from pydantic import TypeAdapter
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    and_,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    literal,
    make_url,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from steep.errors import SteepError, to_install
from steep.types import Progress, Request

P = ParamSpec("P")
T = TypeVar("T")
Status = Literal["queued", "in_progress", "completed", "incomplete", "cancelled", "failed"]
UNDER_WAY: tuple[Status, ...] = ("queued", "in_progress")
IN_MEMORY = "sqlite://"
MAKING_TABLES = 0x57EE9  # number of the lock under which a server makes the tables

TABLES = MetaData()
RESPONSES = Table(
    "responses",
    TABLES,
    Column("id", String, primary_key=True),
    Column("created", Double, nullable=False, index=True),
    Column("model", String, nullable=False),
    Column("weights", String, nullable=False),
    Column("context", Integer),
    Column("chunked", Boolean),
    Column("background", Boolean, nullable=False),
    Column("asked", JSON, nullable=False),
    Column("said", JSON, nullable=False),
    Column("request", JSON, nullable=False),
    Column("status", String, nullable=False, index=True),
    Column("error", String),
    Column("completed_at", Double),
    Column("answer_now", Boolean, nullable=False),
    Column("owner", String, index=True),
    Column("lease", Double),
)
PIECES = Table(
    "pieces",
    TABLES,
    Column("response", ForeignKey("responses.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("ids", LargeBinary, nullable=False),
    Column("logprobs", LargeBinary, nullable=False),
    Column("sampled", LargeBinary, nullable=False),
    Column("thought_len", Integer, nullable=False),
    Column("stop", String),
)
VERSION = 2
"""Of the tables and of what is in their columns: one more with every change of either."""
VERSIONS = Table("store_version", TABLES, Column("version", Integer, primary_key=True))
REQUEST = TypeAdapter(Request)


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a response has come."""

    status: Status
    error: str | None = None
    completed_at: float | None = None

    @property
    def done(self) -> bool:
        return self.status not in UNDER_WAY


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a server has to go on with a response."""

    weights: str
    """Their digest."""
    context: int
    chunked: bool
    """Whether thoughts may be longer than the context."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A response but for its tokens."""

    id: str
    created: float
    model: str
    weights: str
    """Digest of the weights, which alone can go on with the response."""
    context: int | None = None
    """That it needs. None: it was done before this was stored."""
    chunked: bool | None = None
    """Whether it is longer than that: then its chunks are cut at the same places within the same context alone. None:
    it was begun before this was stored."""
    background: bool
    asked: dict[str, Any]
    """The body of the request."""
    said: list[dict[str, Any]]
    """The messages before the answer, without the instructions."""
    request: Request
    """Without its constraint, which `asked` names."""
    answer_now: bool = False
    state: State


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a response gained since it was last saved."""

    number: int
    """Of the piece."""
    piece: Progress | None
    end: State | None


class Store:
    """A database. `run` carries its methods out in a thread of their own, one after another."""

    def __init__(self, url: str, keep: int) -> None:
        """Of the responses that are done, the `keep` newest stay."""
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "store")
        self.sqlite = url.startswith("sqlite")
        try:
            self._engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)  # thoughts are not for the log
            if self.sqlite:
                event.listen(self._engine, "connect", _set_up)
                event.listen(self._engine, "begin", _begin)
            self._thread.submit(self._make_tables).result()
        except SteepError:
            self.close()
            raise
        except ImportError as error:
            raise SteepError(
                f"a store at {make_url(url)!r} needs {error.name}, which is not installed",
                to_install("postgres"),
            ) from error
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", error)
            raise SteepError(
                f"the store cannot be opened: {reason}", "is --store right, and may it be written?"
            ) from error

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))

    def close(self) -> None:
        self._thread.submit(self._engine.dispose)
        self._thread.shutdown()

    # -- any response

    def add(self, record: Record, pieces: Sequence[Progress] = ()) -> None:
        with self._engine.begin() as db:
            done = RESPONSES.c.status.not_in(UNDER_WAY)
            newest = select(RESPONSES.c.id).where(done).order_by(RESPONSES.c.created.desc())
            old = newest.offset(self._keep).with_for_update(skip_locked=True)  # another server may be at it too
            db.execute(delete(RESPONSES).where(RESPONSES.c.id.in_(old)))
            db.execute(
                insert(RESPONSES).values(
                    id=record.id,
                    created=record.created,
                    model=record.model,
                    weights=record.weights,
                    context=record.context,
                    chunked=record.chunked,
                    background=record.background,
                    asked=record.asked,
                    said=record.said,
                    request=REQUEST.dump_python(record.request, mode="json", exclude={"constraint", "cuts"}),
                    answer_now=record.answer_now,
                    **vars(record.state),
                )
            )
            if pieces:
                db.execute(insert(PIECES), [_piece_row(record.id, n, piece) for n, piece in enumerate(pieces)])

    def find(self, id: str) -> Record | None:
        with self._engine.begin() as db:
            row = db.execute(select(RESPONSES).where(RESPONSES.c.id == id)).one_or_none()
        return None if row is None else _record(row)

    def news(self, id: str, after: int = 0) -> tuple[State, list[Progress]] | None:
        """How far it is, and its pieces from number `after` on; None if it is no longer there."""
        with self._engine.begin() as db:
            columns = (RESPONSES.c.status, RESPONSES.c.error, RESPONSES.c.completed_at)
            row = db.execute(select(*columns).where(RESPONSES.c.id == id)).one_or_none()
            state = None if row is None else State(**row._mapping)
            pieces = db.execute(
                select(PIECES).where(PIECES.c.response == id, PIECES.c.number >= after).order_by(PIECES.c.number)
            ).all()
        return None if state is None else (state, [_piece(row) for row in pieces])

    def drop(self, id: str) -> None:
        with self._engine.begin() as db:
            db.execute(delete(RESPONSES).where(RESPONSES.c.id == id))

    # -- those in the background

    def waiting(self, means: Means) -> int:
        """How many there are that are not done, and can be gone on with by these means."""
        with self._engine.begin() as db:
            count = select(func.count()).select_from(RESPONSES)
            return db.execute(count.where(_under_way, _possible(means))).scalar_one()

    def end(self, id: str, state: State) -> None:
        """End one that is not done. Its owner, if any, is its owner no longer."""
        with self._engine.begin() as db:
            ended = vars(state) | {"owner": None}
            db.execute(update(RESPONSES).where(_under_way, RESPONSES.c.id == id).values(ended))

    def answer_now(self, id: str) -> None:
        with self._engine.begin() as db:
            db.execute(update(RESPONSES).where(_under_way, RESPONSES.c.id == id).values(answer_now=True))

    def claim(self, owner: str, means: Means, most: int, lease_s: float) -> list[Record]:
        """Take the oldest of those that nobody is at work on, and that can be gone on with by these means."""
        with self._engine.begin() as db:
            free = or_(RESPONSES.c.owner.is_(None), RESPONSES.c.lease < self._now())
            waiting = select(RESPONSES).where(_under_way, RESPONSES.c.background, _possible(means), free)
            rows = db.execute(waiting.order_by(RESPONSES.c.created).limit(most).with_for_update(skip_locked=True)).all()
            taken = {"status": "in_progress", "owner": owner, "lease": self._now() + lease_s}
            db.execute(update(RESPONSES).where(RESPONSES.c.id.in_([row.id for row in rows])).values(taken))
        return [_record(row) for row in rows]

    def save(self, owner: str, gains: Mapping[str, Gain], lease_s: float) -> dict[str, bool]:
        """Save what responses gained and renew their leases. Of those still the owner's, whether they are to answer."""
        with self._engine.begin() as db:
            own = RESPONSES.c.owner == owner
            rows = db.execute(select(RESPONSES.c.id, RESPONSES.c.answer_now).where(own).with_for_update()).all()
            kept = {id: gains[id] for id, _ in rows if id in gains}
            pieces = [_piece_row(id, gain.number, gain.piece) for id, gain in kept.items() if gain.piece is not None]
            if pieces:
                db.execute(insert(PIECES), pieces)
            for id, gain in kept.items():
                if gain.end is not None:
                    ended = vars(gain.end) | {"owner": None}
                    db.execute(update(RESPONSES).where(RESPONSES.c.id == id).values(ended))
            db.execute(update(RESPONSES).where(own).values(lease=self._now() + lease_s))
        return {row.id: row.answer_now for row in rows}

    def release(self, owner: str) -> None:
        """Leave all to others."""
        with self._engine.begin() as db:
            db.execute(update(RESPONSES).where(RESPONSES.c.owner == owner).values(owner=None))

    def _now(self) -> ColumnElement[Any]:
        """By one clock for all servers."""
        if self.sqlite:
            return literal(time.time())
        return func.extract("epoch", func.clock_timestamp())

    def _make_tables(self) -> None:
        with self._engine.begin() as db:
            if not self.sqlite:
                db.execute(select(func.pg_advisory_xact_lock(MAKING_TABLES)))
            if not inspect(db).has_table(RESPONSES.name):
                TABLES.create_all(db)
                db.execute(insert(VERSIONS).values(version=VERSION))
            known = inspect(db).has_table(VERSIONS.name)
            if known and db.execute(select(VERSIONS.c.version)).scalars().all() == [1]:
                for column in ("context INTEGER", "chunked BOOLEAN"):
                    db.exec_driver_sql(f"ALTER TABLE {RESPONSES.name} ADD COLUMN {column}")
                db.execute(update(VERSIONS).values(version=VERSION))
            if not known or db.execute(select(VERSIONS.c.version)).scalars().all() != [VERSION]:
                raise SteepError(
                    f"the store {self._engine.url!r} was made by another version of steep",
                    "name another --store, or delete this one if nothing in it is needed any more",
                )
            _tell_needs(db)


_under_way = RESPONSES.c.status.in_(UNDER_WAY)


def _possible(means: Means) -> ColumnElement[bool]:
    """What can be gone on with by these means."""
    context, chunked = RESPONSES.c.context, RESPONSES.c.chunked
    fits = and_(or_(chunked.is_(None), not_(chunked)), context <= means.context)
    if means.chunked:
        fits = or_(fits, context == means.context, chunked.is_(None))
    return and_(RESPONSES.c.weights == means.weights, fits)


def _tell_needs(db: Connection) -> None:
    """Store the context that those need which were begun under version 1: what holds them whole, with the answer that
    is kept for them. Whether they are made in chunks stays unknown.
    """
    columns = (RESPONSES.c.id, RESPONSES.c.request)
    for id, stored in db.execute(select(*columns).where(_under_way, RESPONSES.c.context.is_(None))).all():
        request = REQUEST.validate_python(stored)
        budget = request.budget
        needed = len(request.prompt_ids) + (budget.thought or 0) + len(budget.closing) + budget.answer
        db.execute(update(RESPONSES).where(RESPONSES.c.id == id).values(context=needed))


def store_url(where: str) -> str:
    """The URL of a database that is named by URL, or by the path of a file."""
    if "://" not in where:
        path = Path(where).absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds what people ask
        except OSError as error:
            raise SteepError(
                f"the store {path} cannot be written: {error.strerror}", "choose another --store"
            ) from error
        return f"sqlite:///{path}"
    kind, _, rest = where.partition("://")
    if kind in ("postgres", "postgresql"):
        return f"postgresql+psycopg://{rest}"
    if kind != "sqlite":
        raise SteepError(f"a store cannot be of kind {kind!r}", "name a file for SQLite, or a URL postgresql://...")
    return where


def _set_up(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, not at the first change
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # else two servers could both read, and then both claim


def _record(row: Row[Any]) -> Record:
    fields = dict(row._mapping)
    for name in ("owner", "lease"):
        del fields[name]
    state = State(**{name: fields.pop(name) for name in ("status", "error", "completed_at")})
    return Record(**fields | {"request": REQUEST.validate_python(row.request), "state": state})


def _piece_row(id: str, number: int, piece: Progress) -> dict[str, Any]:
    return {
        "response": id,
        "number": number,
        "ids": piece.ids.tobytes(),
        "logprobs": piece.logprobs.tobytes(),
        "sampled": piece.sampled.tobytes(),
        "thought_len": piece.thought_len,
        "stop": piece.stop,
    }


def _piece(row: Row[Any]) -> Progress:
    return Progress(
        sample=0,
        ids=np.frombuffer(row.ids, np.int32),
        logprobs=np.frombuffer(row.logprobs, np.float32),
        sampled=np.frombuffer(row.sampled, np.bool_),
        thought_len=row.thought_len,
        stop=row.stop,
    )
