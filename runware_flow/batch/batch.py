"""`Batch`: one pipeline for each item of a source of any length, in bounded memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, cast, overload

from runware_flow.batch.report import BatchOutcomes, BatchReport
from runware_flow.batch.run import BatchSpec, open_run, open_state
from runware_flow.errors import DeclarationError
from runware_flow.flow.checks import call_name, caller, check_call, takes
from runware_flow.lifetime import HostedBlock
from runware_flow.runner.settings import Settings, read_settings
from runware_flow.tracebacks import bordered
from runware_flow.types import problem_of_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import TypeVar as TypeVarWithDefault

    from runware_flow.batch.plan import BatchPlan
    from runware_flow.batch.run import Engine
    from runware_flow.flow.flow import Flow
    from runware_flow.flow.node import Node
    from runware_flow.flow.options import BatchOptions, Items
    from runware_flow.graph.prices import PriceOption
    from runware_flow.runner.requester import Requester

    S = TypeVarWithDefault("S", default=None)
else:
    S = TypeVar("S")

__all__ = ("Batch",)

A = TypeVar("A")
T = TypeVar("T")
# In the overloads of __init__, which may not name those of the class:
B = TypeVar("B")
U = TypeVar("U")
V = TypeVar("V")


@bordered
class Batch(Generic[A, T, S]):
    """A pipeline for each item of a source.

    Args:
        builder: called with a new flow and an item, and with the result of `shared=` if the run has one; declares the
            item's nodes in the flow and returns the last one, whose outcome is the item's. It must have no side
            effects, because a resumed batch calls it again for each item.
        key: returns the key of an item; by default a hash of the item's content. Equal keys get an ordinal.
        **options: see `BatchOptions`.

    Raises:
        DeclarationError: an argument is wrong.
    """

    @overload
    def __init__(
        self: Batch[B, U, None],
        builder: Callable[[Flow, B], Node[U]],
        *,
        key: Callable[[B], str] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Batch[B, U, V],
        builder: Callable[[Flow, B, V], Node[U]],
        *,
        key: Callable[[B], str] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None: ...
    def __init__(
        self,
        builder: Callable[..., Node[Any]],
        *,
        key: Callable[[Any], str] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None:
        where = caller()
        check_call(builder, 3 if takes(builder, 3) else 2, where, verb="Batch", may_be_async=False)
        if key is not None:
            check_call(key, 1, where, verb="Batch(key=)", may_be_async=False)
        given: dict[str, Any] = dict(options)
        self.name: str = given.pop("name", None) or call_name(builder)
        self._builder = builder
        self._key = key
        self._deadline = _read_deadline(given.pop("deadline", None))
        self._tolerate = _read_tolerate(given.pop("tolerate", None), given.get("on_error", "stop"))
        self._engine: Engine | None = None
        self._settings: Settings = read_settings(Settings(), cast("Any", given), owner="Batch")

    if not TYPE_CHECKING:  # Batch[A, T] is a batch without shared=

        def __class_getitem__(cls, kinds: Any) -> Any:
            return super().__class_getitem__((*kinds, None) if isinstance(kinds, tuple) and len(kinds) == 2 else kinds)

    def __repr__(self) -> str:
        return f"<Batch {self.name!r}, concurrency {self._settings.concurrency}>"

    @overload
    def run(
        self: Batch[A, T, None], items: Items[A], client: Requester | None = None
    ) -> AbstractAsyncContextManager[BatchOutcomes[A, T]]: ...
    @overload
    def run(
        self, items: Items[A], client: Requester | None = None, *, shared: Callable[[Flow], Node[S]]
    ) -> AbstractAsyncContextManager[BatchOutcomes[A, T]]: ...
    def run(
        self, items: Items[A], client: Requester | None = None, *, shared: Callable[[Flow], Node[Any]] | None = None
    ) -> AbstractAsyncContextManager[BatchOutcomes[A, T]]:
        """Work through `items` beside the body of an `async with`, which reads the outcomes as they come.

        Items are pulled as others finish, so memory does not grow with their number. No items are pulled while as many
        outcomes as `concurrency` are unread.

        Leaving the block early (a `break`) stops the batch: nothing more is pulled, and what is in flight runs to its
        end and is counted, since it has been paid for. An exception or a cancel in the block abandons what is in
        flight; with a journal the next run collects it. So does an async generator around the block that is dropped;
        the block may be left in another task than the one that entered it.

        Args:
            items: an iterable, an async iterable, or a callable that makes one. A synchronous one is pulled on the
                event loop, so it must not block.
            client: the client to send tasks with; it stays open. By default one from the environment.
            shared: declares, in a flow of its own, what every item needs, and returns the node whose result the
                builder is given as a third argument. It is made once, before the first item; with a journal, once for
                all runs. If it fails, the batch does.
        """
        if not takes(self._builder, 2 if shared is None else 3):
            what = (
                "has no shared=, but its builder takes a third argument: give shared=, or make it a function of two"
                if shared is None
                else "has shared=, so its builder must take a third argument, the shared result"
            )
            raise DeclarationError(f"this run of batch {self.name!r} {what}")
        if shared is not None:
            check_call(shared, 1, caller(), verb="run(shared=)", may_be_async=False)
        if self._engine is not None and client is not None:
            raise DeclarationError(
                f"batch {self.name!r} is on an engine, whose workers open clients of their own from their environment:"
                " leave client= out"
            )
        usage = "write `async with batch.run(items) as outcomes:` and in it `async for item in outcomes:`"
        return HostedBlock(lambda: self._run(items, client, shared), lambda outcomes: outcomes, usage)

    @overload
    async def collect(self: Batch[A, T, None], items: Items[A], client: Requester | None = None) -> BatchReport: ...
    @overload
    async def collect(
        self, items: Items[A], client: Requester | None = None, *, shared: Callable[[Flow], Node[S]]
    ) -> BatchReport: ...
    async def collect(
        self, items: Items[A], client: Requester | None = None, *, shared: Callable[[Flow], Node[Any]] | None = None
    ) -> BatchReport:
        """Work through `items` to the end and return a report with counts and costs; results are not kept.

        A cancel abandons what is in flight, which may be billed; with a journal the same call continues there.

        Raises:
            FlowFailed: an item failed and `on_error` is not `"continue"`.
        """
        async with cast("Any", self).run(items, client, shared=shared) as outcomes:
            async for _ in outcomes:
                pass
        report: BatchReport = outcomes.report
        return report

    def plan(
        self,
        items: Items[A],
        *,
        sample: int = 20,
        prices: Mapping[str, PriceOption] | None = None,
        shared: object = None,
    ) -> BatchPlan:
        """Return what a run would send and cost, from a sample of the items. Sends nothing; see `Flow.plan`.

        Args:
            items: a list, something else that can be read again, or a callable that makes the iterator.
            sample: how many items are looked at: from all over a sequence, else the first ones.
            prices: by AIR, slug or task type, as for `Flow.plan`; others are learned from the batch's journal.
            shared: a placeholder for the result of `shared=`, for a builder that takes it.

        Raises:
            DeclarationError: the items can be read only once, or an item's declaration makes no sense.
        """
        from runware_flow.batch.plan import plan_batch
        from runware_flow.flow.plan import price_list

        known = price_list(prices, self._settings.journal)
        return plan_batch(self.name, self._builder, items, sample, known, shared)

    def on(self, engine: Engine) -> Batch[A, T, S]:
        """Make the same batch for an engine, such as `runware_flow.engines.DaskEngine`, which runs it elsewhere.

        Its calls, outcomes and report are the same. `concurrency`, `limits` and `budget` hold for all machines
        together; each opens its client, and its journal, from its own environment.

        Raises:
            DeclarationError: the engine cannot run this batch, for example because its journal is not in a database.
        """
        other = copy(self)
        other._engine = engine
        engine.check(other._spec())
        return other

    def overridden(self, key: Callable[[Any], str] | None, **options: Any) -> Batch[A, T, S]:
        """Make the same batch with other options; for the command line."""
        other = copy(self)
        other._key = key or self._key
        other._settings = read_settings(self._settings, cast("Any", options), owner="Batch")
        if other._engine is not None:
            other._engine.check(other._spec())
        return other

    def _spec(self, shared: Callable[[Flow], Node[Any]] | None = None) -> BatchSpec:
        return BatchSpec(self.name, self._builder, self._key, self._settings, self._deadline, self._tolerate, shared)

    @asynccontextmanager
    async def _run(
        self, items: Items[A], client: Requester | None, shared: Callable[[Flow], Node[Any]] | None
    ) -> AsyncGenerator[BatchOutcomes[A, T]]:
        spec = self._spec(shared)
        if self._engine is not None:
            async with self._engine.open_run(spec, items) as outcomes:
                yield outcomes
            return
        state = open_state(spec, items)
        async with open_run(spec, state, client):
            yield BatchOutcomes(state.outbox)


def _read_deadline(value: Any) -> float | None:
    if value is not None and (problem := problem_of_seconds("deadline", value)) is not None:
        raise DeclarationError(problem)
    return cast("float | None", value)


def _read_tolerate(value: Any, on_error: object) -> float:
    if value is None:
        return 0.0
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise DeclarationError(f"tolerate= is a share of the items, from 0 to 1, not {value!r}")
    if on_error == "continue":
        raise DeclarationError('tolerate= says when to stop, and on_error="continue" never does: leave one of them out')
    return float(value)
