"""Walks through a declaration without running it: builders are called with stand-ins, and their tasks are counted.

Each scope has *samples*, which stand for the runs of it: one for the flow itself, one for each item of a fan-out over a
list (256 at most, the last of which stands for the rest), one for any item where the items are not known. Each node has
for each sample of its scope the values that it may have: mostly one, more where a builder may go several ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from graphlib import TopologicalSorter
from itertools import islice, product
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from runware_flow.errors import DeclarationError
from runware_flow.flow.standin import Anything, Recorder, stand_in
from runware_flow.graph.declaration import DECIDED, SENDS, NodeKind, NodeSpec, has_method, waits_for
from runware_flow.graph.forecast import Plan, Way, WayCounts, times
from runware_flow.graph.outcomes import Ok
from runware_flow.graph.prices import Price, PriceList, read_price_text
from runware_flow.journal.store import journal_named
from runware_flow.runner.budget import read_prices
from runware_flow.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runware_flow.graph.declaration import Declaration, Fallback, ScopeSpec, Source
    from runware_flow.graph.prices import PriceOption
    from runware_flow.runner.budget import BudgetAccount
    from runware_flow.runner.settings import JournalOption

__all__ = ("least_cost", "look_up_prices", "make_plan", "price_list")

_MOST_SAMPLES = 256
_MOST_VALUES = 8
_MOST_GATHERED = 10_000
_LOOK_UPS = 8
_MOST_PLANNED = 2_000
"""The most nodes of a run whose plan is made for a comparison with the balance."""


class _Sample(NamedTuple):
    """A run of a scope, or `least` to `most` of them that are alike."""

    parent: int
    item: Any
    least: int
    most: int | None


class _Items(NamedTuple):
    """What is known of the items of a fan-out for one sample around it."""

    known: list[Any]
    length: int | None


def make_plan(declaration: Declaration, prices: PriceList) -> Plan:
    """Plan a run of a declaration. Sends nothing, reads no file, consumes no iterator.

    Raises:
        DeclarationError: the declaration has a cycle.
    """
    declaration.check()
    walk = _Walk(declaration)
    for spec in TopologicalSorter({spec: waits_for(spec) for spec in declaration.specs()}).static_order():
        walk.visit(spec)
    stages = [
        stage
        for spec in _in_order(declaration.root)
        for is_fallback, counts_of in ((False, walk.counts_of), (True, walk.fallbacks))
        if spec in counts_of
        for stage in counts_of[spec].stages(
            prices.find,
            label=spec.name,
            path=spec.path,
            where=str(spec.where),
            is_function=(spec.fallback if is_fallback and spec.fallback else spec).kind is NodeKind.CALL,
            is_fallback=is_fallback,
        )
    ]
    return Plan(declaration.name, tuple(stages))


def _in_order(scope: ScopeSpec) -> Iterator[NodeSpec]:
    for spec in scope.nodes:
        yield spec
        if spec.item_scope is not None:
            yield from _in_order(spec.item_scope)


class _Walk:
    """The samples and values met so far."""

    def __init__(self, declaration: Declaration) -> None:
        self.counts_of: dict[NodeSpec, WayCounts] = {}
        self.fallbacks: dict[NodeSpec, WayCounts] = {}
        self._recorder = Recorder()
        self._values: dict[NodeSpec, list[list[Any]]] = {}
        self._samples: dict[ScopeSpec, list[_Sample]] = {declaration.root: [_Sample(0, None, 1, 1)]}
        self._counts: dict[NodeSpec, list[int | None]] = {}
        self._maybe: set[NodeSpec] = set()
        """Nodes on one way of a branch, which may not be taken, and fallbacks."""

    def visit(self, spec: NodeSpec) -> None:
        """Find out the values of a node, all before which are known."""
        kind = spec.kind
        if self._may_be_left_out(spec):
            self._maybe.add(spec)
        samples = self._samples[spec.scope]
        if kind is NodeKind.FAN:
            self._values[spec] = [[None] for _ in samples]
            self._fan_out(spec)
        elif kind is NodeKind.ITEM:
            self._values[spec] = [[sample.item] for sample in samples]
        elif kind in DECIDED:
            self._values[spec] = [self._chosen(spec, place) for place in range(len(samples))]
        elif spec.of is not None:
            self._values[spec] = [[self._gathered(spec, place)] for place in range(len(samples))]
        elif kind in SENDS:
            is_fallback = any(one.kind is NodeKind.UNLESS for one in spec.after)
            counts = (self.fallbacks if is_fallback else self.counts_of)[spec] = WayCounts()
            self._values[spec] = [self._tasks(spec, place, sample, counts) for place, sample in enumerate(samples)]
        else:
            self._values[spec] = [self._worked_out(spec, place, sample) for place, sample in enumerate(samples)]
        if spec.fallback is not None:
            self._fall_back(spec, spec.fallback)

    def _may_be_left_out(self, spec: NodeSpec) -> bool:
        if spec.kind in (NodeKind.WAY, NodeKind.UNLESS):
            return True
        if spec.kind is NodeKind.BRANCH:
            return False
        before = spec.deps[:1] if spec.kind is NodeKind.FALLBACK else waits_for(spec)
        return any(one in self._maybe for one in before)

    def _fall_back(self, spec: NodeSpec, fallback: Fallback) -> None:
        """Count what a fallback would send; what follows is planned for the first choice alone."""
        counts = self.fallbacks[spec] = WayCounts()
        for place, sample in enumerate(self._samples[spec.scope]):
            ways: list[Way] = [(None, None, 1, None)]
            if fallback.kind is not NodeKind.CALL:
                ways = [self._request(spec, task)[0] for task in self._called(spec, place, fallback)]
            counts.add(ways, 0, sample.most, ())

    # What nodes are worth

    def _tasks(self, spec: NodeSpec, place: int, sample: _Sample, counts: WayCounts) -> list[Any]:
        ways: list[Way] = []
        values: list[Any] = []
        self._recorder.questions.clear()
        for task in self._called(spec, place):
            way, value = self._request(spec, task)
            ways.append(way)
            values.append(value)
        least = 0 if spec in self._maybe else sample.least
        counts.add(ways, least, sample.most, self._recorder.questions)
        by_way = dict(zip(ways, values, strict=True))  # one value for each way is enough for those behind it
        return list(by_way.values())[:_MOST_VALUES]

    def _called(self, spec: NodeSpec, place: int, fallback: Fallback | None = None) -> Iterator[Any]:
        """Call a builder, or a function of `pick`, on all values that it may get; exceptions are values here."""
        work = fallback or spec
        if work.kind is NodeKind.TASK:
            yield work.work
            return
        for args in self._arguments(spec, place):
            yield from self._recorder.ways(partial(work.work, *args))

    def _arguments(self, spec: NodeSpec, place: int) -> Iterator[tuple[Any, ...]]:
        choices = [self._values[dep][self._above(spec.scope, place, dep.scope)] for dep in spec.deps]
        return islice(product(*choices), _MOST_VALUES)

    def _above(self, scope: ScopeSpec, place: int, wanted: ScopeSpec) -> int:
        while scope is not wanted:
            assert scope.parent is not None
            place = self._samples[scope][place].parent
            scope = scope.parent
        return place

    def _request(self, spec: NodeSpec, task: Any) -> tuple[Way, Any]:
        from runware_flow.client.request import prepare  # the catalog is not needed to declare
        from runware_flow.flow.standin import MADE_UP_ID

        try:
            if isinstance(task, Exception):
                raise task
            if not isinstance(task, (Task, Mapping)):
                what = "a coroutine" if _closed(task) else type(task).__name__
                raise DeclarationError(f"it returned {what}, not a task")
            request = prepare(cast("Task[Any]", task), new_task_id=MADE_UP_ID, streams=None)
        except Exception as error:  # noqa: BLE001 - user code, on values that do not exist
            return (None, None, 1, self._question(spec, error)), Anything(spec.name, self._recorder)
        made = stand_in(request.result_type, request.task_type, spec.name, self._recorder)
        value = [made] * request.slots if spec.keeps_all else made
        problem = None
        if request.slots > 1 and not spec.keeps_all:
            problem = f"it asks for {request.slots} results, but a node has one: use flow.each"
        return (request.task_type, request.model, request.slots, problem), value

    def _question(self, spec: NodeSpec, error: Exception) -> str:
        told = " ".join(str(error).split()) or type(error).__name__
        told = told if len(told) <= 160 else told[:157] + "..."
        if spec.kind is NodeKind.TASK:
            return f"its task cannot be prepared: {told}"
        return f"its builder cannot be called before the run: {type(error).__name__}: {told}"

    def _worked_out(self, spec: NodeSpec, place: int, sample: _Sample) -> list[Any]:
        unknown = Anything(spec.name, self._recorder)
        if spec.kind is not NodeKind.PICK:
            counts = self.counts_of.setdefault(spec, WayCounts())
            least = 0 if spec in self._maybe else sample.least
            counts.add([(None, None, 1, None)], least, sample.most, ())
            return [unknown]
        values = islice(self._called(spec, place), _MOST_VALUES)
        return [unknown if isinstance(value, Exception) or _closed(value) else value for value in values]

    def _chosen(self, spec: NodeSpec, place: int) -> list[Any]:
        """List what a branch, a race or a fallback may come to; all that it chooses from is planned for."""
        ends = spec.deps
        if spec.kind is NodeKind.BRANCH:
            ends = spec.deps[1:]
        elif spec.kind is NodeKind.WAY:
            ends = spec.deps[0].deps
        elif spec.kind is NodeKind.UNLESS:
            return [None]
        values = [value for end in ends for value in self._values[end][self._above(spec.scope, place, end.scope)]]
        return values[:_MOST_VALUES]

    def _gathered(self, spec: NodeSpec, place: int) -> list[Any]:
        of = spec.of
        assert of is not None
        assert of.scope.fan is not None
        inside = self._samples[of.scope]
        found = [self._values[of][at][0] for at, sample in enumerate(inside) if sample.parent == place]
        count = self._counts[of.scope.fan][place]
        if found and count is not None:
            found += [found[-1]] * (min(count, _MOST_GATHERED) - len(found))
        if spec.kind is NodeKind.FIRST:
            return found[: spec.work]
        return [Ok(value) for value in found] if spec.kind is NodeKind.SETTLED else found

    # Fan-outs

    def _fan_out(self, spec: NodeSpec) -> None:
        assert spec.item_scope is not None
        samples = self._samples[spec.scope]
        made = self._samples[spec.item_scope] = []
        self._counts[spec] = []
        share = max(1, _MOST_SAMPLES // max(1, len(samples)))
        for place, around in enumerate(samples):
            items = self._items(spec, place)
            self._counts[spec].append(items.length)
            known = items.known[:share]
            if items.length is None:
                item = known[0] if known else Anything(f"{spec.name}.item", self._recorder)
                made.append(_Sample(place, item, 0, None))
                continue
            for number, item in enumerate(known, 1):
                runs = items.length - len(known) + 1 if number == len(known) else 1
                made.append(_Sample(place, item, around.least * runs, times(around.most, runs)))

    def _items(self, spec: NodeSpec, place: int) -> _Items:
        if spec.source is not None:
            return _items_of(spec.source)
        [dep] = spec.deps
        value: object = self._values[dep][self._above(spec.scope, place, dep.scope)][0]
        found = list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else []
        if dep.keeps_all:
            return _Items(found, len(found)) if found else _Items([], None)
        if dep.of is not None and dep.of.scope.fan is not None:
            at = self._above(spec.scope, place, dep.scope)
            return _Items(found, self._counts[dep.of.scope.fan][at])
        return _Items(found, None)


def _items_of(source: Source) -> _Items:
    """Look into a source without consuming it: only what has a length can be gone through again."""
    items: Any = source.items
    if source.is_one_shot or not has_method(items, "__len__") or not has_method(items, "__iter__", "__getitem__"):
        return _Items([], None)
    try:
        count = len(items)
        known: list[Any] = list(islice(iter(items), min(count, _MOST_SAMPLES)))
    except Exception:  # noqa: BLE001 - user code: the run will tell
        return _Items([], None)
    return _Items(known, count) if len(known) == min(count, _MOST_SAMPLES) else _Items(known, None)


def _closed(value: Any) -> bool:
    """Tell whether `value` is a coroutine, which would warn unless it is closed."""
    close = getattr(value, "close", None) if has_method(value, "__await__") else None
    if close is not None:
        close()
    return close is not None


def price_list(prices: Mapping[str, PriceOption] | None, journal: JournalOption) -> PriceList:
    """Bring together the prices that a caller gives and those that a journal has seen."""
    given = read_prices(prices)
    address = journal_named(journal)
    if address is None:
        return PriceList(given)
    from runware_flow.journal.costs import seen_prices  # SQLite is not needed without

    return PriceList(given, seen_prices(address))


def least_cost(declaration: Declaration, account: BudgetAccount) -> float:
    """Tell what a run will cost at least, in USD, as far as its builders and known prices say."""
    budget, past = account.budget, account.past
    if len(declaration.order) > _MOST_PLANNED or not (budget.prices or past.prices):
        return 0.0
    low = make_plan(declaration, PriceList(budget.prices, past.prices)).cost.low
    return max(0.0, min(low - past.spent / 1_000_000, budget.left))


async def look_up_prices(plan: Plan, client: Any) -> dict[str, Price]:
    """Ask the content service what the models of a plan cost. Models that it does not know are left out.

    Raises:
        RunwareError: the content service could not be asked.
    """
    import anyio

    from runware_flow.lifetime import open_task_group

    found: dict[str, Price] = {}
    limiter = anyio.CapacityLimiter(_LOOK_UPS)

    async def look_up(model: str) -> None:
        async with limiter:
            pricing = await client.content.get_model_pricing(model)
        price = None
        if pricing is not None:
            price = read_price_text(example.price for example in pricing.pricing_examples)
        if price is not None:
            found[model] = price

    models = dict.fromkeys(stage.model for stage in plan.stages if stage.model is not None)
    async with open_task_group() as group:
        for model in models:
            group.start_soon(look_up, model)
    return {model: found[model] for model in models if model in found}
