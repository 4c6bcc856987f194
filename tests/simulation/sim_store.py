"""A gateway's end of the ledger: what a real store does with a network between it and its database."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from sim_database import CutError, Database, RefusedError, Rows, Session
from sim_loop import Process, SimLoop

from bursar.ledger.account import Answer, ClearModel, Operation
from bursar.ledger.store import LedgerUnavailableError, NotWrittenError, batches

BATCH_MAX = 64
ANSWER_SECONDS_MAX = 5.0
CONNECT_SECONDS_MAX = 2.0
LINGER_SECONDS_MAX = 20.0


class Network:
    """What may happen to a message between a gateway and the database; all chances are 0 until a plan sets them."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self.request_lost = 0.0
        self.request_late = 0.0
        self.reply_lost = 0.0

    def send(self, function: Callable[..., None], *args: Any) -> None:
        """Deliver to the database, after a while, if at all."""
        chance = self._rng.random()
        if chance < self.request_lost:
            return
        late = chance - self.request_lost < self.request_late
        self._later(self._rng.uniform(1, 20) if late else self._delay(), function, *args)

    def reply(self, function: Callable[..., None], *args: Any) -> bool:
        """Deliver to the gateway, after a while, if at all."""
        if self._rng.random() < self.reply_lost:
            return False
        self._later(self._delay(), function, *args)
        return True

    def linger(self, function: Callable[..., None], *args: Any) -> None:
        """Have the database notice at once, or only after a while, that nobody is at the other end any more."""
        self._later(self._rng.choice((0.0, self._rng.uniform(0, LINGER_SECONDS_MAX))), function, *args)

    def _delay(self) -> float:
        return 10 ** self._rng.uniform(-4, -2.7)

    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        self._loop.call_later(seconds, function, *args, context=self._loop.world.context)


class SimStore:
    """One ledger database as one gateway sees it; see `bursar.ledger.store.Store` for the contract."""

    def __init__(self, process: Process, database: Database, network: Network) -> None:
        self.worker = ""
        self.is_open = False
        self.in_flight: list[Operation] = []
        self._process = process
        self._database = database
        self._network = network
        self._session: Session | None = None
        self._queue: deque[tuple[Operation, asyncio.Future[Any]]] = deque()
        self._has_work = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._names = 0

    async def patterns(self) -> tuple[str, ...]:
        """Give the budgets for all models that begin alike; nobody sets one here."""
        return ()

    # ---- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect under a fresh worker id; raises LedgerUnavailableError."""
        self._rename()
        await self._connect()
        self.is_open = True
        self._sender = asyncio.get_running_loop().create_task(self._send_all())

    async def close(self) -> None:
        """Write what was submitted, then let go of the session."""
        while self.is_busy:
            await asyncio.sleep(0.01)
        self.is_open = False
        if self._sender is not None:
            self._sender.cancel()
        self.hang_up()

    async def renew(self, fenced: str) -> None:
        """Live on under a fresh worker id, after this one was declared dead; raises LedgerUnavailableError."""
        if self.worker == fenced:
            # What is sent from now on connects first, as the new worker.
            self._rename()
            self.hang_up()

    def abandon(self) -> None:
        """Do what the operating system does with the connections of a process that was killed."""
        for session in self._database.sessions_of(self._process.name):
            self._network.linger(self._database.cut, session)

    def hang_up(self) -> None:
        """Let go of the session."""
        if self._session is not None:
            self._session.on_cut.clear()
            self._network.linger(self._database.cut, self._session)
            self._session = None

    @property
    def session(self) -> Session | None:
        """Give the session, if there is one."""
        return self._session

    @property
    def is_busy(self) -> bool:
        """Whether something is submitted and not answered."""
        return bool(self._queue or self.in_flight)

    def _rename(self) -> None:
        self._names += 1
        self.worker = f"{self._process.name}.{self._names}"

    # ---- asking ------------------------------------------------------------------------------------------------------

    async def submit(self, operation: Operation) -> Answer:
        """Have the operation decided and durable; raises LedgerUnavailableError, BrokenInvariantError."""
        if not self.is_open:
            raise NotWrittenError("the ledger is not open")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((operation, future))
        self._has_work.set()
        answer: Answer = await future
        return answer

    async def dead_workers(self) -> tuple[str, ...]:
        """Give the workers that have open holds and whose lock nobody has."""
        database = self._database

        def query(rows: Rows) -> tuple[str, ...]:
            workers = dict.fromkeys(hold.worker for hold in rows.holds.values() if hold.state == "open")
            return tuple(w for w in sorted(workers) if w != self.worker and not database.is_alive(w))

        if self._session is None or not self._session.is_open:
            await self.submit(ClearModel(""))  # changes nothing, but connects
        session = self._session
        if session is None:
            raise NotWrittenError("not connected")
        dead: tuple[str, ...] = await self._ask(lambda reply: database.read(session, query, reply))
        return dead

    async def _send_all(self) -> None:
        """Send what is queued, one batch at a time: what comes meanwhile goes together into the next one."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self._queue:
                first = next(batches([operation for operation, _ in self._queue], BATCH_MAX))
                futures = [self._queue.popleft()[1] for _ in first]
                self.in_flight = first
                results = await self._decided(first)
                self.in_flight = []
                for future, result in zip(futures, results, strict=True):
                    if future.done():
                        continue
                    if isinstance(result, BaseException):
                        future.set_exception(result)
                    else:
                        future.set_result(result)

    async def _decided(self, operations: list[Operation]) -> list[Any]:
        try:
            if self._session is None or not self._session.is_open:
                await self._connect()
            session = self._session
            if session is None:
                raise NotWrittenError("not connected")
            answers: list[Any] = await self._ask(lambda reply: self._database.submit(session, operations, reply))
        except LedgerUnavailableError as error:
            return [type(error)(str(error)) for _ in operations]
        return answers

    async def _connect(self) -> None:
        """Open a session for the worker as it is called now."""
        worker = self.worker
        try:
            session: Session = await self._ask(
                lambda reply: self._database.connect(worker, reply), seconds_max=CONNECT_SECONDS_MAX
            )
        except LedgerUnavailableError as error:
            raise NotWrittenError(f"the ledger is not reached: {error}") from error
        self.hang_up()
        self._session = session

    async def _ask(self, ask: Callable[[Callable[[Any], None]], None], seconds_max: float = ANSWER_SECONDS_MAX) -> Any:
        """Send, and wait for the reply; after a reply that does not come, the session is not used again."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asked = self._session
        if asked is not None:
            asked.on_cut.append(lambda: self._network.reply(self._arrive, future, CutError("the connection was cut")))
        self._network.send(ask, lambda result: self._replied(future, result))
        try:
            async with asyncio.timeout(seconds_max):
                result = await future
        except TimeoutError as error:
            self.hang_up()
            raise LedgerUnavailableError("no answer") from error
        if isinstance(result, RefusedError):
            raise NotWrittenError(str(result))
        if isinstance(result, CutError):
            self.hang_up()
            raise LedgerUnavailableError(str(result))
        return result

    def _replied(self, future: asyncio.Future[Any], result: Any) -> None:
        if not self._network.reply(self._arrive, future, result) and isinstance(result, Session):
            self._network.linger(self._database.cut, result)

    def _arrive(self, future: asyncio.Future[Any], result: Any) -> None:
        """Deliver what the database says; a new session that nobody is there to take goes again."""
        if not future.done() and not self._process.is_dead:
            future.set_result(result)
        elif isinstance(result, Session):
            self._network.linger(self._database.cut, result)
