"""`Flow`: the declaration of a pipeline, and the ways to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import anyio
import anyio.lowlevel

from runware_flow.errors import ClientStateError, DeclarationError
from runware_flow.graph.declaration import Declaration, NodeKind, NodeSpec
from runware_flow.run.choose import tolerate_in
from runware_flow.run.declare import (
    call_name,
    caller,
    check_call,
    check_task,
    has_method,
    is_node,
    read_options,
    read_source,
    snapshot,
)
from runware_flow.run.many import Many
from runware_flow.run.node import Join, Node, Placeholder
from runware_flow.run.settings import Settings, read_settings
from runware_flow.types import Result, Task

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from runware_flow.client.client import Client
    from runware_flow.graph.declaration import Where
    from runware_flow.graph.forecast import Plan
    from runware_flow.graph.prices import Price
    from runware_flow.run.handle import Run
    from runware_flow.run.options import (
        BudgetOption,
        FlowOptions,
        Items,
        JournalOption,
        OnError,
        PolicyOptions,
        PriceOption,
        Progress,
        WireTask,
        Work,
    )
    from runware_flow.run.requester import Requester
    from runware_flow.run.result import RunResult

__all__ = ("Flow",)

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
R = TypeVar("R")


class Flow:
    """A pipeline of tasks and functions, declared once and run any number of times.

    Args:
        name: what it is called in events and reports.
        concurrency: how many nodes are in flight at most, at least 1.
        on_error: what happens once a node has failed for good. `"stop"`: nothing new is sent, what is in flight is
            collected, and `FlowFailed` is raised. `"cancel"`: the same, but what is in flight is abandoned at once.
            `"continue"`: only what depends on the failed node is skipped.
        progress: `True` for bars on a terminal or in a notebook, and a line every few seconds elsewhere; `"rich"` for
            the bars, `"json"` for a line of JSON each second; or a callable that is given each event.
        journal: a file that outlives a crash: each task is in it before it is sent, each result before it counts. A run
            with the journal of an earlier one restores what that has finished and asks for what it had sent.
        limits: how many nodes of a kind are in flight at most, as in `{"video": 4, "model:runware:400@1": 8}`: by what
            a task makes (image, video, audio, text, 3d), `type:<taskType>`, `model:<AIR or slug>`, or a name that nodes
            give with `limit=`. A node that waits for one holds no worker.
        budget: USD that a run may spend at most, or a `Budget` to share between several. A task that does not fit is
            not sent, and fails with `BudgetExceeded`.
        cache: not available in this version; anything but `None` is an error.

    Raises:
        DeclarationError: an argument that makes no sense.
    """

    def __init__(
        self,
        name: str = "flow",
        *,
        concurrency: int = 64,
        limits: Mapping[str, int] | None = None,
        on_error: OnError = "stop",
        budget: BudgetOption = None,
        journal: JournalOption = None,
        cache: object = None,
        progress: Progress = None,
    ) -> None:
        self.name = name
        options: FlowOptions = {
            "concurrency": concurrency,
            "limits": limits,
            "on_error": on_error,
            "budget": budget,
            "journal": journal,
            "cache": cache,
            "progress": progress,
        }
        self.settings: Settings = read_settings(Settings(), options)
        self.declaration = Declaration(name)

    def __repr__(self) -> str:
        count = sum(1 for _ in self.declaration.specs())
        return f"<Flow {self.name!r}, {count} nodes, concurrency {self.settings.concurrency}>"

    @overload
    def then(self, task: Task[R], /, **policy: Unpack[PolicyOptions]) -> Node[R]: ...
    @overload
    def then(self, task: WireTask, /, **policy: Unpack[PolicyOptions]) -> Node[Result]: ...
    @overload
    def then(self, function: Callable[[], Work[R]], /, **policy: Unpack[PolicyOptions]) -> Node[R]: ...
    @overload
    def then(self, a: Node[A], builder: Callable[[A], Work[R]], /, **policy: Unpack[PolicyOptions]) -> Node[R]: ...
    @overload
    def then(
        self, a: Node[A], builder: Callable[[A], WireTask], /, **policy: Unpack[PolicyOptions]
    ) -> Node[Result]: ...
    @overload
    def then(
        self, a: Node[A], b: Node[B], builder: Callable[[A, B], Work[R]], /, **policy: Unpack[PolicyOptions]
    ) -> Node[R]: ...
    @overload
    def then(
        self, a: Node[A], b: Node[B], builder: Callable[[A, B], WireTask], /, **policy: Unpack[PolicyOptions]
    ) -> Node[Result]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        builder: Callable[[A, B, C], Work[R]],
        /,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        builder: Callable[[A, B, C, D], Work[R]],
        /,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        e: Node[E],
        builder: Callable[[A, B, C, D, E], Work[R]],
        /,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        e: Node[E],
        f: Node[F],
        builder: Callable[[A, B, C, D, E, F], Work[R]],
        /,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R]: ...
    def then(self, *given: Any, **policy: Unpack[PolicyOptions]) -> Node[Any]:
        """Add a node.

        `then(task)` sends a fixed task as it is now, a struct or a dict with wire names. `then(a, b, builder)` waits
        for one to six nodes and sends what `builder(result_a, result_b)` returns; with an `async def` in its place,
        awaits that.
        `then(function)` awaits a function without arguments. Dicts as the work of three nodes or more go through
        `join`.

        A task's node has one result: a task of several is declared with `each`.
        """
        if not given:
            raise DeclarationError(f"then, declared at {caller()}, was given nothing: give it a task or a function")
        *before, work = given
        if not before and isinstance(work, (Task, Mapping)):
            return Node(self, self._add_task(work, policy, caller(), several=False))
        return self.declare_call(tuple(before), work, policy, verb="then")

    @overload
    def join(self, a: Node[A], b: Node[B], /) -> Join[A, B]: ...
    @overload
    def join(self, a: Node[A], b: Node[B], c: Node[C], /) -> Join[A, B, C]: ...
    @overload
    def join(self, a: Node[A], b: Node[B], c: Node[C], d: Node[D], /) -> Join[A, B, C, D]: ...
    @overload
    def join(self, a: Node[A], b: Node[B], c: Node[C], d: Node[D], e: Node[E], /) -> Join[A, B, C, D, E]: ...
    @overload
    def join(
        self, a: Node[A], b: Node[B], c: Node[C], d: Node[D], e: Node[E], f: Node[F], /
    ) -> Join[A, B, C, D, E, F]: ...
    def join(self, *nodes: Node[Any]) -> Any:
        """Bring 2 to 6 nodes together: `flow.join(a, b).then(builder)`."""
        where = caller()
        if not 2 <= len(nodes) <= 6:
            raise DeclarationError(f"join, declared at {where}, takes 2 to 6 nodes, not {len(nodes)}")
        self.require(nodes, where, verb="join")
        return Join[Any](self, nodes)

    @overload
    def each(self, task: Task[R], /, *, tolerate: float | None = None, **policy: Unpack[PolicyOptions]) -> Many[R]: ...
    @overload
    def each(
        self, task: WireTask, /, *, tolerate: float | None = None, **policy: Unpack[PolicyOptions]
    ) -> Many[Result]: ...
    def each(
        self, task: Task[Any] | WireTask, /, *, tolerate: float | None = None, **policy: Unpack[PolicyOptions]
    ) -> Many[Any]:
        """Send one task of several results, and fan out over them.

        If some of its results fail, the finished ones go on, and one failed item stands for the rest; `tolerate` is a
        share of these items, see `map`.
        """
        where = caller()
        given: Any = task
        if not isinstance(given, (Task, Mapping)):
            raise DeclarationError(f"each, declared at {where}, takes a task, not {type(given).__name__}")
        spec = self._add_task(given, policy, where, several=True)
        spec.keeps_all = True
        item = self.declaration.add_fan(spec, name=f"{spec.name}.each", where=where)
        tolerate_in(item, tolerate, where)
        return Many(self, item)

    @overload
    def race(self, a: Node[A], b: Node[B], /, *, label: str | None = None) -> Node[A | B]: ...
    @overload
    def race(self, a: Node[A], b: Node[B], c: Node[C], /, *, label: str | None = None) -> Node[A | B | C]: ...
    @overload
    def race(self, *nodes: Node[R], label: str | None = None) -> Node[R]: ...
    def race(self, *nodes: Node[Any], label: str | None = None) -> Node[Any]:
        """Take the result of whichever node is the first to succeed. Each task in a race is a purchase of its own.

        Once it is decided, what only the race still needed is given up: tasks in flight are cancelled, and so are
        `Abandoned` and may be billed; what has not begun is skipped and costs nothing. A node that something else
        needs as well is left alone.

        The failure of one is no failure of the run if only the race needs it. If all fail, the race fails with
        `TooFewSucceeded`, which names each with its error.
        """
        where = caller()
        if len(nodes) < 2:
            raise DeclarationError(f"race, declared at {where}, takes at least 2 nodes, not {len(nodes)}")
        self.require(nodes, where, verb="race")
        specs = [node.spec for node in nodes]
        return Node(self, self.declaration.add(NodeKind.RACE, None, specs, name=label or "race", where=where))

    @overload
    def map(
        self,
        items: Items[A],
        builder: Callable[[A], Work[R]],
        /,
        *,
        key: Callable[[A], str] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R]: ...
    @overload
    def map(
        self,
        items: Items[A],
        builder: Callable[[A], WireTask],
        /,
        *,
        key: Callable[[A], str] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[Result]: ...
    def map(
        self,
        items: Any,
        builder: Any,
        /,
        *,
        key: Callable[[Any], str] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[Any]:
        """Make one node for each item, of any number.

        Items are pulled when there is nothing else to do, and never more than `concurrency` of them are unfinished.

        Args:
            items: an iterable, an async iterable, or a callable that makes one for each run. An iterator can be met
                only once: a second run is an error. A synchronous iterable is pulled on the event loop, so it must
                not block.
            builder: called with the item, as in `then`.
            key: names an item; by default items are known by a hash of what they are. Equal keys get an ordinal.
            tolerate: the share of the items, from 0 to 1, that may fail, at whatever step, without this being a failure
                of the run. It is a share of all items where their number is known before: of a list, or whatever else
                has a length. Of other sources it is a share of the items pulled so far, until the source has ended,
                except that the first failure alone never ends the run before. Without it any failure does.
        """
        source = read_source(items, caller())
        if source.is_one_shot:  # the same iterator in two maps is one source, met twice
            known = (spec.source for spec in self.declaration.specs() if spec.source is not None)
            source = next((other for other in known if other.items is items), source)
        return self.declare_map(source, builder, key, tolerate, policy)

    async def execute(self, client: Requester | None = None, **overrides: Unpack[FlowOptions]) -> RunResult:
        """Run the flow to its end.

        Cancelling it leaves no worker behind; what was in flight is abandoned (use `start` to read what had finished).

        Args:
            client: the client to send tasks with; it stays open. Without one, a flow that sends tasks opens one from
                the environment and closes it.
            **overrides: keywords of `Flow`, for this run alone.

        Raises:
            FlowFailed: a node failed and `on_error` is not `"continue"`; its `.result` has everything that finished.
            DeclarationError: the declaration has a cycle, or an override makes no sense.
            JournalError: the journal cannot be used, or another run uses it.
        """
        async with self.start(client, **overrides) as run:
            await run.wait()
        return run.result

    def start(
        self, client: Requester | None = None, **overrides: Unpack[FlowOptions]
    ) -> AbstractAsyncContextManager[Run]:
        """Run the flow beside the body of an `async with`, which gets the `Run`.

        A body that ends normally waits for the end of the run; one that raises cancels it. Use `run.stop()` to end it
        early. Arguments and errors are those of `execute`; `FlowFailed` is raised by `run.wait()`, or on leaving.
        """
        from runware_flow.run.runner import open_run  # the shell is not needed to declare

        given: Any = client
        if given is not None and (isinstance(given, type) or not has_method(given, "prepare", "perform")):
            what = f"the class {given.__name__}" if isinstance(given, type) else f"one {type(given).__name__}"
            raise DeclarationError(
                f"the first argument of execute and start is an open client, not {what}: use `async with Client() as"
                " client`, or leave it out to have one opened with the key in the environment"
            )
        return open_run(self, client, read_settings(self.settings, overrides))

    def run(self, client: None = None, *, backend: str = "asyncio", **overrides: Unpack[FlowOptions]) -> RunResult:
        """Run the flow in an event loop of its own and block until its end; for scripts.

        Args:
            client: none; a client belongs to an event loop, so it cannot be shared with a blocking call.
            backend: `"asyncio"` or `"trio"`.
            **overrides: keywords of `Flow`, for this run alone.

        Raises:
            ClientStateError: called inside a running event loop.
        """
        if client is not None:
            raise DeclarationError(
                "flow.run() opens its own client in its own event loop; use `await flow.execute(client)`"
            )

        if _has_running_loop():
            raise ClientStateError(
                "flow.run() starts an event loop of its own, and one is running here: use `await flow.execute()`"
            )

        async def main() -> RunResult:
            return await self.execute(None, **overrides)

        return anyio.run(main, backend=backend)

    def plan(self, *, journal: JournalOption = None, prices: Mapping[str, PriceOption] | None = None) -> Plan:
        """Tell what a run would send and cost, and what only the run decides. Sends nothing, writes nothing.

        Builders are called on stand-ins for results that nobody knows yet: real results with made-up contents. One that
        asks such a value a question is called for each answer, and each way that it goes is listed; one that cannot
        work without the real value is listed as decided by the run. Functions are not called. Items that have a length
        are counted, and the first 256 tried; an iterator is not touched. What a journal would restore is counted too.

        Args:
            journal: the journal to learn prices from, by default the flow's own.
            prices: by AIR, slug or task type: USD for one result, or the lowest and the highest; they come first. See
                `look_up_prices` for those of the content service.

        Raises:
            DeclarationError: the declaration has a cycle, or something in `prices` is no price.
            JournalError: the journal is damaged, or none.
        """
        from runware_flow.run.planning import make_plan, price_list  # not needed to declare

        return make_plan(self.declaration, price_list(prices, journal or self.settings.journal))

    async def look_up_prices(self, client: Client | None = None) -> dict[str, Price]:
        """Ask the content service what the models of this flow cost, by AIR, for `plan(prices=...)` and for budgets.

        Models that it does not know are left out. Nothing is billed.

        Args:
            client: an open client; without one, one from the environment is opened and closed.

        Raises:
            RunwareError: the content service could not be asked.
        """
        from runware_flow.run.planning import look_up_prices

        plan = self.plan()
        if client is not None:
            return await look_up_prices(plan, client)
        from runware_flow.client.client import Client

        async with Client() as opened:
            return await look_up_prices(plan, opened)

    def mermaid(self) -> str:
        """Draw the flow as a Mermaid flowchart; fan-outs are subgraphs. Sends nothing, consumes no source."""
        from runware_flow.view.diagram import mermaid
        from runware_flow.view.shape import shape_of

        return mermaid(shape_of(self.declaration))

    def _repr_html_(self) -> str:
        from runware_flow.view.notebook import flow_html

        return flow_html(self.name, self.declaration)

    # What follows is used by Node and Many; it is no part of the contract.

    def handle_of(self, spec: NodeSpec) -> Node[Any] | Many[Any]:
        """Return the `Node` of a spec, or the `Many` if it is made once for each item."""
        return Node(self, spec) if spec.scope.parent is None and spec.item_scope is None else Many(self, spec)

    def declare_call(self, nodes: tuple[Any, ...], work: Any, policy: PolicyOptions, *, verb: str) -> Node[Any]:
        """Add a node that is called with the results of `nodes`."""
        where = caller()
        if is_node(work):
            raise DeclarationError(f"{verb}, declared at {where}, got nodes only: give a builder as the last argument")
        if len(nodes) > 6:
            raise DeclarationError(
                f"{verb}, declared at {where}, takes up to 6 nodes, not {len(nodes)}: use map and gather"
            )
        self.require(nodes, where, verb=verb)
        return Node(self, self.add_call([node.spec for node in nodes], work, policy, where, verb=verb))

    def add_call(
        self, deps: list[NodeSpec] | tuple[NodeSpec, ...], work: Any, policy: PolicyOptions, where: Where, *, verb: str
    ) -> NodeSpec:
        """Add the spec of a builder or an async function."""
        kind = check_call(work, len(deps), where, verb=verb)
        label, checked = read_options(policy, where)
        name = label or call_name(work)
        return self.declaration.add(kind, work, deps, name=name, where=where, policy=checked)

    def declare_map(
        self, source: Any, builder: Any, key: Any, tolerate: float | None, policy: PolicyOptions
    ) -> Many[Any]:
        """Add a fan-out and the first step of its items."""
        where = caller()
        kind = check_call(builder, 1, where, verb="map")
        if key is not None:
            check_call(key, 1, where, verb="map(key=)", may_be_async=False)
        label, checked = read_options(policy, where)
        name = label or call_name(builder)
        item = self.declaration.add_fan(source, name=name, where=where, key=key)
        tolerate_in(item, tolerate, where)
        step = self.declaration.add(kind, builder, (item,), name=name, where=where, policy=checked)
        return Many(self, step)

    def _add_task(self, task: Any, policy: PolicyOptions, where: Where, *, several: bool) -> NodeSpec:
        name = check_task(task, where, several=several)
        label, checked = read_options(policy, where)
        task = snapshot(task)
        return self.declaration.add(NodeKind.TASK, task, (), name=label or name, where=where, policy=checked)

    def require(self, nodes: tuple[Any, ...], where: Where, *, verb: str = "then") -> None:
        """Refuse what is no node of this flow, and an item's node outside of the fan-out it belongs to."""
        for node in nodes:
            if not isinstance(node, Placeholder) or (isinstance(node, Many) and verb != "many"):
                what = "use many.then, many.gather() or many.join" if isinstance(node, Many) else "nodes come first"
                raise DeclarationError(f"{verb}, declared at {where}, was given {node!r} where a node belongs: {what}")
            if node.flow is not self:
                raise DeclarationError(f"{verb}, declared at {where}, uses {node!r}, which belongs to another flow")
            scope = node.spec.scope.parent if isinstance(node, Many) else node.spec.scope
            while scope is not None and scope.parent is not None:
                if not scope.open_count:
                    raise DeclarationError(
                        f"{verb}, declared at {where}, uses {node!r}, which is made once for each item, outside of its"
                        " pipe: use gather() to bring all items together"
                    )
                scope = scope.parent


def _has_running_loop() -> bool:
    try:
        anyio.lowlevel.current_token()
    except anyio.NoEventLoopError:
        return False
    return True
