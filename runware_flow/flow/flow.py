"""`Flow`: the declaration of a pipeline, and the ways to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import anyio
import anyio.lowlevel

from runware_flow.errors import ClientStateError, DeclarationError
from runware_flow.flow.checks import caller, read_source
from runware_flow.flow.node import Join, Many, Node, add_task, declare_call, declare_map, require, tolerate_in
from runware_flow.graph.declaration import Declaration, NodeKind, has_method
from runware_flow.interrupts import run_interruptible
from runware_flow.lifetime import HostedBlock
from runware_flow.runner.settings import Settings, read_settings
from runware_flow.tracebacks import bordered
from runware_flow.types import Result, Task

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from runware_flow.client.client import Client
    from runware_flow.flow.options import Items, PolicyOptions, WireTask, Work
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.forecast import Plan
    from runware_flow.graph.policies import OnError
    from runware_flow.graph.prices import Price, PriceOption
    from runware_flow.runner.budget import BudgetAccount
    from runware_flow.runner.handle import Run
    from runware_flow.runner.requester import Requester
    from runware_flow.runner.result import RunResult
    from runware_flow.runner.runner import Runner
    from runware_flow.runner.settings import BudgetOption, CacheOption, FlowOptions, JournalOption, Progress

__all__ = ("Flow", "open_declaration")

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
if TYPE_CHECKING:
    from typing import Never

    from typing_extensions import TypeVar as TypeVarWithDefault

    R = TypeVarWithDefault("R", default=Result)
    S = TypeVarWithDefault("S", default=Never)
else:
    R = TypeVar("R")
    S = TypeVar("S")


_UNSET_SETTINGS = Settings()


@bordered
class Flow:
    """A pipeline of tasks and functions, declared once and run any number of times.

    Args:
        name: the name in events, reports and the journal.
        concurrency: how many nodes are in flight at most, at least 1.
        on_error: what happens when all attempts of a node have failed. `"stop"`: nothing new is sent, what is in flight
            is collected, and `FlowFailed` is raised. `"cancel"`: the same, but what is in flight is abandoned at once.
            `"continue"`: only the nodes that depend on the failed one are skipped.
        progress: `True` for bars on a terminal or in a notebook, and a line every few seconds elsewhere; `"rich"` for
            the bars, `"json"` for a line of JSON each second; or a callable that is given each event.
        journal: a file, or the URL of a database, that records each task before it is sent and each result before it is
            used. A run with the journal of an earlier run restores its finished results and collects its open tasks.
        limits: how many nodes of a kind are in flight at most, as in `{"video": 4, "model:runware:400@1": 8}`: by what
            a task makes (image, video, audio, text, 3d), `type:<taskType>`, `model:<AIR or slug>`, or a name that nodes
            give with `limit=`. A node that waits for a permit holds no worker.
        budget: USD that a run may spend at most, or a `Budget` to share between several. A task that does not fit is
            not sent, and fails with `BudgetExceeded`.
        cache: a folder, or a `Cache`, of answers that flows share. A request is looked up before it is sent; an answer
            from the cache costs nothing. Equal requests that are in flight at once are sent once. `cache=` of
            `PolicyOptions` says which requests are cached.

    Raises:
        DeclarationError: an argument is wrong.
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
        cache: CacheOption = None,
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
        self.declaration = Declaration(name, _reference_of)

    def __repr__(self) -> str:
        count = sum(1 for _ in self.declaration.specs())
        return f"<Flow {self.name!r}, {count} nodes, concurrency {self.settings.concurrency}>"

    @overload
    def then(
        self,
        work: Task[R] | WireTask | Callable[[], Work[R]],
        /,
        *,
        fallback: Callable[[], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        builder: Callable[[A], Work[R]],
        /,
        *,
        fallback: Callable[[A], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        builder: Callable[[A, B], Work[R]],
        /,
        *,
        fallback: Callable[[A, B], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        builder: Callable[[A, B, C], Work[R]],
        /,
        *,
        fallback: Callable[[A, B, C], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        builder: Callable[[A, B, C, D], Work[R]],
        /,
        *,
        fallback: Callable[[A, B, C, D], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
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
        *,
        fallback: Callable[[A, B, C, D, E], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
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
        *,
        fallback: Callable[[A, B, C, D, E, F], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    def then(self, *given: Any, fallback: Any = None, **policy: Unpack[PolicyOptions]) -> Node[Any]:
        """Add a node.

        `then(task)` sends a fixed task as it is now, a struct or a dict with wire names. `then(a, b, builder)` waits
        for one to six nodes and sends what `builder(result_a, result_b)` returns; with an `async def` in its place,
        awaits that.
        `then(function)` awaits a function without arguments. Dicts as the work of three nodes or more go through
        `join`.

        A node has one result. Declare a task of several results with `each`.

        Args:
            *given: the nodes, and last the task, the builder or the function.
            fallback: a builder or a function with the same arguments, which is used when all attempts have failed. The
                node then has its result. **After a timeout of yours or a lost connection it is a second purchase**,
                because the service may still finish and bill the first task.
            **policy: see `PolicyOptions`.
        """
        if not given:
            raise DeclarationError(f"then, declared at {caller()}, was given nothing: give it a task or a function")
        *before, work = given
        if not before and isinstance(work, (Task, Mapping)):
            return Node(self.declaration, add_task(self.declaration, work, policy, caller(), fallback, several=False))
        return declare_call(self.declaration, tuple(before), work, policy, fallback)

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
        require(self.declaration, nodes, where, verb="join")
        return Join[Any](self.declaration, nodes)

    @overload
    def race(self, a: Node[A], b: Node[B], /, *, label: str | None = None) -> Node[A | B]: ...
    @overload
    def race(self, a: Node[A], b: Node[B], c: Node[C], /, *, label: str | None = None) -> Node[A | B | C]: ...
    @overload
    def race(self, *nodes: Node[R], label: str | None = None) -> Node[R]: ...
    def race(self, *nodes: Node[Any], label: str | None = None) -> Node[Any]:
        """Take the result of the first node to succeed. Each task in a race is a purchase of its own.

        When it is decided, the nodes that only the race needs are given up: tasks in flight are `Abandoned` and may be
        billed; nodes that have not begun are skipped and cost nothing. A node that another node needs goes on.

        The failure of one does not fail the run if only the race needs it. If all fail, the race fails with
        `TooFewSucceeded`, which names each with its error.
        """
        where = caller()
        if len(nodes) < 2:
            raise DeclarationError(f"race, declared at {where}, takes at least 2 nodes, not {len(nodes)}")
        require(self.declaration, nodes, where, verb="race")
        specs = [node.spec for node in nodes]
        return Node(
            self.declaration, self.declaration.add(NodeKind.RACE, None, specs, name=label or "race", where=where)
        )

    def each(
        self,
        task: Task[R] | WireTask,
        /,
        *,
        fallback: Callable[[], Work[S]] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]:
        """Send one task of several results, and fan out over them.

        If some of its results fail, the finished ones go on, and one failed item stands for the rest; `tolerate` is a
        share of these items, see `map`. A `fallback` makes another task if this one fails, see `then`.
        """
        where = caller()
        given: Any = task
        if not isinstance(given, (Task, Mapping)):
            raise DeclarationError(f"each, declared at {where}, takes a task, not {type(given).__name__}")
        spec = add_task(self.declaration, given, policy, where, fallback, several=True)
        spec.keeps_all = True
        item = self.declaration.add_fan(spec, name=f"{spec.name}.each", where=where)
        tolerate_in(item, tolerate, where)
        return Many(self.declaration, item)

    @overload
    def map(
        self,
        items: Items[A],
        /,
        *,
        key: Callable[[A], str] | None = None,
        tolerate: float | None = None,
        label: str = ...,
    ) -> Many[A]: ...
    @overload
    def map(
        self,
        items: Items[A],
        builder: Callable[[A], Work[R]],
        /,
        *,
        fallback: Callable[[A], Work[S]] | None = None,
        key: Callable[[A], str] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]: ...
    def map(
        self,
        items: Any,
        *builder: Any,
        fallback: Any = None,
        key: Any = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[Any]:
        """Make one node for each item, of any number.

        Without a builder the values are the items themselves: `flow.map(prompts).each(four_variants)` sends one task of
        several results for each.

        Items are pulled when there is nothing else to do, and never more than `concurrency` of them are unfinished.

        Args:
            items: an iterable, an async iterable, or a callable that makes one for each run. An iterator can be met
                only once: a second run is an error. A synchronous iterable is pulled on the event loop, so it must
                not block.
            builder: called with the item, as in `then`; without one the node's result is the item.
            fallback: called with the item in its place, once that has failed for good; see `then`.
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
        return declare_map(self.declaration, source, builder, key, tolerate, policy, fallback)

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
        async with self._open(client, self._settings_of(client, overrides)) as runner:
            return await _begin(runner).wait()

    def start(
        self, client: Requester | None = None, **overrides: Unpack[FlowOptions]
    ) -> AbstractAsyncContextManager[Run]:
        """Run the flow beside the body of an `async with`, which gets the `Run`.

        A body that ends normally waits for the end of the run; one that raises cancels it. Use `run.stop()` to end it
        early. Arguments and errors are those of `execute`; `FlowFailed` is raised by `run.wait()`, or on leaving.

        The block may be left in another task than the one that entered it, and so by an async generator around it that
        is dropped: then the run is abandoned, as by a cancel, and releases its journal within 5 s. Builders and
        functions of the flow run in a copy of the context of the task that entered the block.
        """
        settings = self._settings_of(client, overrides)
        usage = "write `async with flow.start() as run:` and in it `async for event in run.events():`"
        return HostedBlock(lambda: self._open(client, settings), _begin, usage)

    def _settings_of(self, client: Requester | None, overrides: FlowOptions) -> Settings:
        """Check what a run is given, at the line that gives it."""
        given: Any = client
        if given is not None and (isinstance(given, type) or not has_method(given, "prepare", "perform")):
            what = f"the class {given.__name__}" if isinstance(given, type) else f"one {type(given).__name__}"
            raise DeclarationError(
                f"the first argument of execute and start is an open client, not {what}: use `async with Client() as"
                " client`, or leave it out to have one opened with the key in the environment"
            )
        return read_settings(self.settings, overrides)

    def _open(self, client: Requester | None, settings: Settings) -> AbstractAsyncContextManager[Runner]:
        """Open a run, which the body begins, for a block that is left in the task that entered it."""
        from runware_flow.runner.runner import open_run  # the shell is not needed to declare

        return open_run(self.declaration, client, settings, self._least_cost)

    def _least_cost(self, account: BudgetAccount) -> float:
        from runware_flow.flow.plan import least_cost  # only a budget asks

        return least_cost(self.declaration, account)

    def run(self, client: None = None, *, backend: str = "asyncio", **overrides: Unpack[FlowOptions]) -> RunResult:
        """Run the flow in an event loop of its own and block until its end; for scripts.

        Args:
            client: none; a client belongs to an event loop, so it cannot be shared with a blocking call.
            backend: `"asyncio"` or `"trio"`.
            **overrides: keywords of `Flow`, for this run alone.

        An interrupt (Ctrl-C) cancels the run and leaves as `KeyboardInterrupt`, with a note that says how much had
        finished, what may be billed, and how to go on.

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

        settings = self._settings_of(None, overrides)
        begun: list[RunResult] = []

        async def main() -> RunResult:
            async with self._open(None, settings) as runner:
                run = _begin(runner)
                begun.append(run.result)
                return await run.wait()

        try:
            return run_interruptible(main, backend=backend)
        except KeyboardInterrupt as interrupt:
            if begun:
                from runware_flow.runner.interrupted import report_interrupted  # rarely needed

                report_interrupted(interrupt, self.name, begun[0], overrides.get("journal", self.settings.journal))
            raise

    def plan(self, *, journal: JournalOption = None, prices: Mapping[str, PriceOption] | None = None) -> Plan:
        """Tell what a run would send and cost, and what only the run decides. Sends nothing, writes nothing.

        Builders are called with stand-ins for results that are not known yet: real results with made-up contents. A
        builder that branches on such a value is called once for each answer, and each branch is listed; one that needs
        the real value is listed as decided by the run. Functions are not called. Items that have a length are counted,
        and the builder is called for the first 256; an iterator is not touched. What a journal would restore is counted
        too.

        Args:
            journal: the journal to learn prices from, by default the flow's own.
            prices: by AIR, slug or task type: USD for one result, or the lowest and the highest; they come first. See
                `look_up_prices` for those of the content service.

        Raises:
            DeclarationError: the declaration has a cycle, or something in `prices` is no price.
            JournalError: the journal is damaged, or none.
        """
        from runware_flow.flow.plan import make_plan, price_list  # not needed to declare

        return make_plan(self.declaration, price_list(prices, journal or self.settings.journal))

    async def look_up_prices(self, client: Client | None = None) -> dict[str, Price]:
        """Ask the content service what the models of this flow cost, by AIR, for `plan(prices=...)` and for budgets.

        Models that it does not know are left out. Nothing is billed.

        Args:
            client: an open client; without one, one from the environment is opened and closed.

        Raises:
            RunwareError: the content service could not be asked.
        """
        from runware_flow.flow.plan import look_up_prices

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


def _begin(runner: Runner) -> Run:
    from runware_flow.runner.handle import Run

    runner.begin()
    return Run(runner)


def _has_running_loop() -> bool:
    try:
        anyio.lowlevel.current_token()
    except anyio.NoEventLoopError:
        return False
    return True


def open_declaration(name: str) -> Flow:
    """Make a flow that is only declared in, with the settings of none: for each item of a batch, so without checks."""
    flow = Flow.__new__(Flow)
    flow.name = name
    flow.settings = _UNSET_SETTINGS
    flow.declaration = Declaration(name, _reference_of)
    return flow


def _reference_of(declaration: Declaration, spec: NodeSpec) -> Node[Any] | Many[Any]:
    is_one = spec.scope.parent is None and spec.item_scope is None
    return Node(declaration, spec) if is_one else Many(declaration, spec)
