"""A flow without a world around it: a driver for the machine, and a slow reference for what it should find."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runware_flow.graph.declaration import Declaration, NodeKind, NodeSpec, Source, Where
from runware_flow.graph.machine import FlowMachine
from runware_flow.graph.outcomes import Abandoned, Failed, Ok, Skipped
from runware_flow.graph.plan import Step, compile_plan
from runware_flow.graph.scope_run import FanRun, ScopeRun

HERE = Where("flow.py", 1)
Place = tuple[str, tuple[int, ...]]


class Boom(Exception):
    """What a node of these tests fails with."""


@dataclass
class World:
    """What the nodes of a declaration do: which fail, and how many items each fan-out has."""

    declaration: Declaration = field(default_factory=lambda: Declaration("test"))
    fails: set[Place] = field(default_factory=set)
    widths: dict[str, int] = field(default_factory=dict)
    broken_sources: dict[str, int] = field(default_factory=dict)
    decisions: set[str] = field(default_factory=set)
    otherwise: set[Place] = field(default_factory=set)

    def node(self, *deps: NodeSpec, name: str = "node", kind: NodeKind = NodeKind.CALL) -> NodeSpec:
        return self.declaration.add(kind, None, deps, name=name, where=HERE)

    def fan(self, over: NodeSpec | None = None, *, width: int, name: str = "fan") -> NodeSpec:
        source = Source((), is_one_shot=False) if over is None else over
        item = self.declaration.add_fan(source, name=name, where=HERE)
        assert item.scope.fan is not None
        self.widths[item.scope.fan.path] = width
        return item

    def gather(self, of: NodeSpec, kind: NodeKind = NodeKind.GATHER, count: int = 1) -> NodeSpec:
        spec = self.declaration.add_gather(kind, of, name=kind.value, where=HERE)
        spec.work = count
        return spec

    def race(self, *nodes: NodeSpec, name: str = "race") -> NodeSpec:
        return self.declaration.add(NodeKind.RACE, None, nodes, name=name, where=HERE)

    def fallback(self, of: NodeSpec) -> NodeSpec:
        return self.declaration.add_fallback(of, None, name=f"{of.name}.fallback", task_name="task", where=HERE)

    def ways(self, of: NodeSpec) -> tuple[NodeSpec, NodeSpec, NodeSpec]:
        """The decision of a branch and its two ways; `branch` brings them together."""
        decision = self.node(of, name="when", kind=NodeKind.PICK)
        self.decisions.add(decision.path)
        then, otherwise = (
            self.declaration.add(NodeKind.WAY, taken, (decision,), name="way", where=HERE) for taken in (True, False)
        )
        return decision, then, otherwise

    def branch(self, decision: NodeSpec, then: NodeSpec, otherwise: NodeSpec) -> NodeSpec:
        return self.declaration.add(NodeKind.BRANCH, None, (decision, then, otherwise), name="branch", where=HERE)

    def value(self, place: Place, spec: NodeSpec, args: list[Any]) -> Any:
        """What a node makes of its arguments."""
        return place not in self.otherwise if spec.path in self.decisions else value_of(spec, args)

    def machine(self, *, concurrency: int = 4, on_error: str = "continue") -> FlowMachine:
        return FlowMachine(compile_plan(self.declaration), concurrency=concurrency, on_error=on_error)


def place_of(run: ScopeRun, step: Step) -> Place:
    indices: list[int] = []
    around: ScopeRun | None = run
    while around is not None and around.fan is not None:
        indices.append(around.index)
        around = around.parent
    return step.spec.path, tuple(reversed(indices))


class Driver:
    """Carries out what the machine decides, in an order that the caller chooses, and checks the rules on the way."""

    def __init__(self, world: World, machine: FlowMachine) -> None:
        self.world = world
        self.machine = machine
        self.running: list[tuple[ScopeRun, Step]] = []
        self.started: list[Place] = []
        self.started_after_stop: list[Step] = []
        self.parked: list[tuple[ScopeRun, Step]] = []
        self.has_failed_attempts = False
        self.park_count: dict[Place, int] = {}
        self.succeeded: list[Place] = []
        self.is_prompt = True

    def start(self) -> bool:
        job = self.machine.take()
        if job is None:
            return False
        self.running.append(job)
        self.started.append(place_of(*job))
        if self.machine.stopped is not None:
            self.started_after_stop.append(job[1])
        assert self.machine.in_flight == len(self.running) <= self.machine.concurrency
        return True

    def pull(self) -> bool:
        fan = self.machine.next_source()
        if fan is None:
            return False
        self.feed(fan)
        return True

    def feed(self, fan: FanRun) -> None:
        path = fan.step.spec.path
        if fan.pulled_count == self.world.broken_sources.get(path):
            self.machine.source_failed(fan, Boom(path))
        elif fan.pulled_count == self.world.widths[path]:
            self.machine.source_ended(fan)
        else:
            self.machine.item_pulled(fan, fan.pulled_count)
            assert fan.open_count <= self.machine.concurrency or not fan.plan.is_windowed

    def settle(self, choice: int = 0) -> None:
        run, step = self.running.pop(choice % len(self.running))
        self.succeeded.append(place_of(run, step))  # of those that fail, nobody asks
        if place_of(run, step) in self.world.fails:
            self.machine.fail(run, step, Boom(step.spec.path))
        else:
            value = self.world.value(place_of(run, step), step.spec, self.machine.arguments(run, step))
            self.machine.succeed(run, step, value)
        if self.is_prompt:
            self.obey()

    def park(self, choice: int, *, has_failed: bool) -> None:
        """Let a running node wait for something, between two attempts or before the first."""
        run, step = self.running.pop(choice % len(self.running))
        place = place_of(run, step)
        self.park_count[place] = self.park_count.get(place, 0) + 1
        self.machine.park(run, step, Boom("again") if has_failed else None)
        self.parked.append((run, step))
        self.has_failed_attempts = self.has_failed_attempts or has_failed

    def unpark(self, choice: int) -> None:
        self.machine.unpark(*self.parked.pop(choice % len(self.parked)))

    def check(self) -> None:
        """What holds at each step."""
        assert self.machine.in_flight == len(self.running) <= self.machine.concurrency
        starts: dict[Place, int] = {}
        for place in self.started:
            starts[place] = starts.get(place, 0) + 1
        for place, count in starts.items():
            assert count <= 1 + self.park_count.get(place, 0), f"{place} ran twice in one attempt"

    def obey(self) -> None:
        """Abandon what the machine has dropped."""
        while self.machine.dropped:
            job = self.machine.dropped.pop()
            if isinstance(job, tuple) and job in self.running:
                self.running.remove(job)
                self.machine.abandon(*job, "uuid", may_be_billed=True)

    def finish(self) -> None:
        while not self.machine.is_finished:
            if not self.start() and not self.pull():
                self.settle()

    def describe(self) -> str:
        specs = list(self.world.declaration.specs())
        return f"{specs}, {self.machine.root}, fan-outs {list(self.machine.active)}, {self.outcomes()}"

    def outcomes(self) -> dict[Place, Any]:
        found: dict[Place, Any] = {}
        runs = [self.machine.root]
        while runs:
            run = runs.pop()
            for step in run.plan.steps:
                outcome = run.outcome(step.slot)
                value = run.values[step.slot]
                if isinstance(value, FanRun):
                    runs.extend(value.items)
                    outcome = value.problem_outcome or outcome
                found[place_of(run, step)] = simple(outcome)
        return found


def value_of(spec: NodeSpec, args: list[Any]) -> Any:
    return (spec.path, *(plain(arg) for arg in args))


def plain(value: Any) -> Any:
    """A value without the errors in it, so that values can be compared."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return simple(value) if isinstance(value, (Failed, Skipped, Abandoned)) else value


def simple(outcome: Any) -> Any:
    """An outcome without what differs between the machine and the reference: errors' identities, sentences."""
    match outcome:
        case Ok(FanRun()):
            return "ok"
        case Ok(value):
            return plain(value)
        case None:
            return None
        case _:
            return type(outcome).__name__


class Reference:
    """The outcome of every node by plain recursion, as `on_error="continue"` means it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.known: dict[Place, Any] = {}

    def outcomes(self) -> dict[Place, Any]:
        self._scope(self.world.declaration.root, ())
        return {place: simple(outcome) for place, outcome in self.known.items()}

    def _scope(self, scope: Any, indices: tuple[int, ...]) -> None:
        for spec in scope.nodes:
            self.outcome(spec, indices)
            if spec.item_scope is not None and self._width(spec, indices) is not None:
                for index in range(self._width(spec, indices) or 0):
                    self._scope(spec.item_scope, (*indices, index))

    def _width(self, fan: NodeSpec, indices: tuple[int, ...]) -> int | None:
        if any(not isinstance(self.outcome(dep, indices), Ok) for dep in (*fan.deps, *fan.after)):
            return None
        return min(self.world.widths[fan.path], self.world.broken_sources.get(fan.path, 1_000))

    def outcome(self, spec: NodeSpec, indices: tuple[int, ...]) -> Any:
        place = (spec.path, indices[: spec.scope.depth])
        if place not in self.known:
            self.known[place] = self._outcome(spec, place[1])
        return self.known[place]

    def _outcome(self, spec: NodeSpec, indices: tuple[int, ...]) -> Any:
        if spec.kind is NodeKind.ITEM:
            return Ok(indices[-1])
        if spec.of is not None:
            return self._gathered(spec, spec.of, indices)
        if spec.kind in (NodeKind.WAY, NodeKind.BRANCH):
            return self._way(spec, indices)
        before = [self.outcome(dep, indices) for dep in (*spec.deps, *spec.after)]
        if any(not isinstance(outcome, Ok) for outcome in before):
            return Skipped("")
        if spec.kind is NodeKind.FAN:
            broken = self.world.broken_sources.get(spec.path, 1_000) <= self.world.widths[spec.path]
            return Failed(Boom()) if broken else Ok("ok")
        if (spec.path, indices) in self.world.fails:
            return Failed(Boom())
        args = [outcome.value for outcome in before[: len(spec.deps)]]
        return Ok(self.world.value((spec.path, indices), spec, args))

    def _way(self, spec: NodeSpec, indices: tuple[int, ...]) -> Any:
        decision = self.outcome(spec.deps[0], indices)
        if not isinstance(decision, Ok):
            return Skipped("")
        if spec.kind is NodeKind.BRANCH:
            end = self.outcome(spec.deps[1 if decision.value else 2], indices)
            return end if isinstance(end, Ok) else Skipped("")
        return self.outcome(spec.deps[0].deps[0], indices) if decision.value is spec.work else Skipped("")

    def _gathered(self, spec: NodeSpec, of: NodeSpec, indices: tuple[int, ...]) -> Any:
        fan = of.scope.fan
        assert fan is not None
        if not isinstance(self.outcome(fan, indices), Ok):
            return Skipped("")
        outcomes = [self.outcome(of, (*indices, index)) for index in range(self._width(fan, indices) or 0)]
        if spec.kind is NodeKind.SETTLED:
            return Ok(outcomes)
        if any(not isinstance(outcome, Ok) for outcome in outcomes):
            return Skipped("")
        return Ok([outcome.value for outcome in outcomes])
