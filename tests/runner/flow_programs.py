"""Random programs: flows of any shape as plain data, what the service does with each request, and how to declare them.

Each request says in its prompt which statement it is of and for which item, so that the service can count what was
bought for each node of a run without knowing anything of flows. All values are texts of the form `chain!name!digest`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
from hypothesis import strategies as st

from runware_flow import Flow, Ok, Retry, RunwareError
from runware_flow.client.request import Prepared, prepare
from runware_flow.tasks import ImageInference

SLOW = 40.0
HEDGE_AFTER = 5.0
TIMEOUT = 7.0

REQUESTS = ("task", "then", "each", "twin")
MANY = ("map", "each", "nodemap", "many_then", "pipe", "many_fallback")


@dataclass(frozen=True, repr=False, slots=True)
class Statement:
    """One line of a program.

    Attributes:
        name: what its requests are known by; an edit of the program keeps it.
        args: the names of the nodes that it uses.
        body: of a pipe: the lines of the sub-pipeline, of which the last node is what it returns.
        count: how many items, results or winners.
        policy: `retry`, `timeout`, `hedge_after` and whether there is a `fallback`.
        label: as it is told to the flow.
    """

    name: str
    op: str
    args: tuple[str, ...] = ()
    body: tuple[Statement, ...] = ()
    count: int = 0
    policy: tuple[tuple[str, Any], ...] = ()
    label: str | None = None
    ways: tuple[bool, bool] = (True, True)

    def _repr_pretty_(self, printer: Any, is_cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        default = Statement("", "")
        names = [name for name in self.__slots__ if getattr(self, name) != getattr(default, name)]
        return f"Statement({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


@dataclass(frozen=True, repr=False)
class Program:
    """Lines, and what becomes of the requests of each.

    Attributes:
        script: by the name of a statement: `fail`, `once` (the first request fails), or `slow` (the first one is).
        has_cache: equal requests with a seed are made once.
    """

    lines: tuple[Statement, ...]
    script: dict[str, str] = field(default_factory=dict)
    has_cache: bool = False
    on_error: str = "continue"
    delivery: str = "sync"
    seed: int = 0

    def _repr_pretty_(self, printer: Any, is_cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        lines = "".join(f"\n    {line}," for line in self.lines)
        options = f"script={self.script!r}, has_cache={self.has_cache}, on_error={self.on_error!r}"
        return f"Program(({lines}\n), {options}, delivery={self.delivery!r}, seed={self.seed})"

    @property
    def has_equals(self) -> bool:
        """Whether equal requests are made each, so that their results are not the same."""
        return not self.has_cache and sum(line.op == "twin" for line in self.lines) > 1

    def all_lines(self) -> list[Statement]:
        return list(_flat(self.lines))


def _flat(lines: tuple[Statement, ...]) -> Any:
    for line in lines:
        yield line
        yield from _flat(line.body)


def digest(*texts: object) -> str:
    return hashlib.sha256("|".join(map(str, texts)).encode()).hexdigest()[:10]


def chance(*texts: object) -> float:
    """A number from 0 to 1 that depends on nothing but the texts."""
    return int(digest(*texts), 16) / 16**10


def text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return digest(*map(text, value))
    if isinstance(value, Ok):
        return text(value.value)
    return str(getattr(value, "image_url", None) or "none")


def chain_of(value: Any, depth: int) -> str:
    whole = text(value).removeprefix("https://m/").split("!")[0]
    return ".".join(whole.split(".")[:depth])


def picture(prompt: str, delivery: str, count: int = 1, seed: int | None = None) -> ImageInference:
    more: dict[str, Any] = {} if seed is None else {"seed": seed}
    if count > 1:
        more["number_results"] = count
    return ImageInference(
        model="runware:400@1", positive_prompt=prompt, width=512, height=512, delivery_method=delivery, **more
    )


def takes_otherwise(program: Program, line: Statement) -> bool:
    return chance(program.seed, line.name, "when") < 0.5


# How a program is declared


class Declarer:
    """Declares a program with a flow, as a user would write it."""

    def __init__(self, program: Program, flow: Flow) -> None:
        self.program = program
        self.flow = flow

    def declare(self) -> dict[str, Any]:
        nodes: dict[str, Any] = {}
        for line in self.program.lines:
            nodes[line.name] = self.line(line, nodes, 0)
        return nodes

    def policy(self, line: Statement) -> dict[str, Any]:
        found = {name: value for name, value in line.policy if name != "fallback"}
        if "retry" in found:
            found["retry"] = Retry(found["retry"], backoff=0)
        return found if line.label is None else {**found, "label": line.label}

    def builder(self, name: str, depth: int, count: int = 1) -> Any:
        delivery = self.program.delivery

        def build(*values: Any) -> ImageInference:
            return picture(f"{name}|{chain_of(values[0], depth)}|{digest(*map(text, values))}", delivery, count)

        return build

    def fallback(self, line: Statement, depth: int) -> dict[str, Any]:
        return {"fallback": self.builder(f"{line.name}~", depth)} if dict(line.policy).get("fallback") else {}

    def line(self, line: Statement, nodes: dict[str, Any], depth: int) -> Any:
        args = [nodes[name] for name in line.args]
        label = {} if line.label is None else {"label": line.label}
        if depth and line.op in ("then", "call") and line.args[0] != "item":
            args = [nodes["item"], *args]  # the first value tells the item
        return getattr(self, f"declare_{line.op}")(line, args, nodes, depth, label)

    def declare_task(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        more = self.policy(line)
        build, other = self.builder(line.name, 0), self.fallback(line, 0)
        if other:
            return self.flow.then(lambda: build("!"), fallback=lambda: other["fallback"]("!"), **more)
        return self.flow.then(build("!"), **more)

    def declare_twin(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        seed = 7 if self.program.has_cache else None
        return self.flow.then(picture(f"twin||{digest()}", self.program.delivery, seed=seed), **self.policy(line))

    def declare_then(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        build, more = self.builder(line.name, depth), {**self.policy(line), **self.fallback(line, depth)}
        if len(args) == 1:
            return args[0].then(build, **more)
        return self.flow.join(*args).then(build, **more)

    def declare_call(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        name, seed = line.name, self.program.seed

        async def call(*values: Any) -> str:
            chain = chain_of(values[0], depth)
            await anyio.sleep(0.5 + chance(seed, name, chain))
            return f"{chain}!{name}!{digest(*map(text, values))}"

        if len(args) == 1:
            return args[0].then(call, **label)
        return self.flow.join(*args).then(call, **label)

    def declare_pick(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        return args[0].pick(lambda value: text(value), **label)

    def declare_race(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        return self.flow.race(*args, **label)

    def declare_branch(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        def way(suffix: str, *, has_request: bool) -> Any:
            build = self.builder(f"{line.name}{suffix}", depth)
            if not has_request:
                return lambda node: node
            return lambda node: self.flow.join(nodes["item"], node).then(build) if depth else node.then(build)

        ways = [way(suffix, has_request=has) for suffix, has in zip("+-", line.ways, strict=True)]
        return args[0].branch(lambda value: not takes_otherwise(self.program, line), *ways, **label)

    def declare_fallback(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        return args[0].fallback(picture(f"{line.name}||{digest()}", self.program.delivery))

    def declare_map(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        items = [f"{line.name}i{number}!{line.name}!" for number in range(line.count)]
        more = {**self.policy(line), **self.fallback(line, 1)}
        return self.flow.map(items, self.builder(line.name, 1), **more)

    def declare_nodemap(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        def items(*values: Any) -> list[str]:
            chain = chain_of(values[0], depth)
            before = f"{chain}." if chain else ""
            return [f"{before}{line.name}i{number}!{digest(*map(text, values))}" for number in range(line.count)]

        node = args[0].pick(items)
        return node.map(self.builder(line.name, depth + 1), **self.policy(line), **self.fallback(line, depth + 1))

    def declare_each(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        return args[0].each(self.builder(line.name, depth, line.count), **self.policy(line))

    def declare_many_then(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        more = {**self.policy(line), **self.fallback(line, depth + 1)}
        return args[0].then(self.builder(line.name, depth + 1), **more)

    def declare_many_fallback(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        return args[0].fallback(picture(f"{line.name}||{digest()}", self.program.delivery))

    def declare_pipe(self, line: Statement, args: Any, nodes: dict[str, Any], depth: int, label: Any) -> Any:
        def pipe(item: Any) -> Any:
            inside = {**nodes, "item": item}
            for one in line.body:
                inside[one.name] = self.line(one, inside, depth + 1)
            return inside[line.body[-1].name]

        return args[0].pipe(pipe)

    def declare_gather(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        return args[0].gather(**label)

    def declare_settled(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        return args[0].settled(**label)

    def declare_first(self, line: Statement, args: Any, nodes: Any, depth: int, label: Any) -> Any:
        return args[0].first(line.count, **label)


# The service


@dataclass
class Job:
    """A task as the service knows it; it goes on whether or not anything waits for it."""

    name: str
    chain: str
    prompt: str
    ends_at: float
    fails: bool


class Cloud:
    """A service in memory that outlives the runs, with a clock that stands still between them.

    Attributes:
        sent: the taskUUIDs that were sent and not known before, in order: what was bought.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.jobs: dict[str, Job] = {}
        self.sent: list[str] = []
        self.problems: list[str] = []
        self._counts: dict[tuple[str, str], int] = {}
        self._before = 0.0

    def stop(self, *, forward: float = 0.0) -> None:
        """A run has ended; so much time passes until the next one."""
        self._before = self.now() + forward

    def now(self) -> float:
        return self._before + anyio.current_time() - self._started

    def start(self) -> None:
        self._started = anyio.current_time()

    def prepare(
        self, task: Any, /, *, include_cost: bool | None = None, task_uuid: str | None = None, **more: Any
    ) -> Any:
        if task_uuid is None:
            task_uuid = f"{len(self.jobs):08d}-0000-4000-8000-{next(_NUMBERS):012d}"
        return prepare(task, new_task_id=task_uuid, include_cost=include_cost, **more)

    async def perform(self, request: Prepared, /, *, sent_before: str = "no", **more: Any) -> list[Any]:
        job = self.jobs.get(request.task_id)
        if job is None:
            if sent_before == "yes":
                raise RunwareError("there is no such task", code="notFound", raw_code="taskNotFound")
            job = self._make(request)
        elif sent_before == "no":
            self.problems.append(f"{request.task_id} was sent twice: {job.prompt}")
        await anyio.sleep(max(0.0, job.ends_at - self.now()))
        if job.fails:
            raise RunwareError("it failed", code="provider", raw_code="providerError", retryable=True)
        try:
            return [self._result(request, job, slot) for slot in range(request.slots)]
        except Exception as error:
            self.problems.append(f"the service itself failed: {error!r}")
            raise

    def _make(self, request: Prepared) -> Job:
        prompt = request.wire["positivePrompt"]
        name, chain, _ = prompt.split("|")
        count = self._counts[name, chain] = self._counts.get((name, chain), 0) + 1
        seconds, fails = course(self.program, name, chain, count)
        job = self.jobs[request.task_id] = Job(name, chain, prompt, self.now() + seconds, fails)
        self.sent.append(request.task_id)
        return job

    def _result(self, request: Prepared, job: Job, slot: int) -> Any:
        chain = job.chain
        if request.slots > 1:
            chain = f"{chain}.r{slot}" if chain else f"r{slot}"
        unique = digest(request.task_id, slot)
        url = f"https://m/{chain}!{job.name}!{unique}"
        item = {"taskType": request.task_type, "taskUUID": request.task_id, "cost": 0.001, "imageURL": url}
        return msgspec.convert({**item, "imageUUID": unique}, request.result_type)

    def is_paid(self, task_uuid: str) -> bool:
        """Whether the service bills the task, now or when it is done."""
        return not self.jobs[task_uuid].fails


_NUMBERS = iter(range(10**9))


def course(program: Program, name: str, chain: str, count: int) -> tuple[float, bool]:
    """How long the service takes for the nth request of a node, and whether it fails."""
    kind = program.script.get(name.rstrip("~+-") if name not in program.script else name, "ok")
    if name.endswith(("~", "+", "-")) and name not in program.script:
        kind = "ok"
    if kind == "slow" and count == 1 and chance(program.seed, name, chain, "slow") < 0.7:
        return SLOW + chance(program.seed, name, chain, count), False
    is_hit = chance(program.seed, name, chain, "fails") < 0.7
    fails = is_hit and (kind == "fail" or (kind == "once" and count == 1))
    return 1.0 + 2 * chance(program.seed, name, chain, count), fails


# How a program is made up


class _Maker:
    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.count = 0
        self.failing: list[str] = []
        """What is likely to fail."""

    def name(self) -> str:
        self.count += 1
        return f"s{self.count}"

    def policy(self) -> tuple[tuple[str, Any], ...]:
        found: list[tuple[str, Any]] = []
        if self.rarely():
            found.append(("retry", self.draw(st.integers(2, 3))))
        if self.rarely():
            found.append(("timeout", TIMEOUT))
        if self.rarely():
            found.append(("hedge_after", HEDGE_AFTER))
        if self.rarely():
            found.append(("fallback", True))
        return tuple(found)

    def rarely(self) -> bool:
        return self.draw(st.integers(0, 4)) == 4

    def lines(self, size: int, outer: list[str], depth: int) -> tuple[Statement, ...]:
        """Args: outer: the nodes around, and for the scope of an item, the item itself as the last one."""
        made: list[Statement] = []
        near: list[str] = ["item"] if depth else []
        many: dict[str, Statement] = {}
        for _ in range(size):
            if self.rarely() and self.rarely():
                made += self.answered_apart(list(many), depth)
                near += [made[-1].name] if made[-1].op == "fallback" else []
                continue
            line = self.line(near, outer, many, depth)
            if line is None:
                continue
            made.append(line)
            if line.op in MANY:
                many[line.name] = line
            else:
                near.append(line.name)
        if depth and (not made or made[-1].op not in ("then", "call")):  # whose value tells the item
            made.append(Statement(self.name(), "then", (near[-1],), policy=self.policy()))
        return tuple(made)

    def line(self, near: list[str], outer: list[str], many: dict[str, Statement], depth: int) -> Statement | None:
        kinds = ["then", "then", "join", "call", "pick", "branch", "fallback", "race", "race", "nodemap", "each"]
        if not depth:
            kinds += ["task", "task", "map", "map", "twin"]
        if many:
            kinds += ["many_then", "many_fallback", "pipe", "pipe", "gather", "settled", "first", "first"]
        op = self.draw(st.sampled_from(kinds)) if near or many else self.draw(st.sampled_from(["task", "map"]))
        if op in ("many_then", "many_fallback", "pipe", "gather", "settled", "first"):
            return self.of_many(op, list(many), [*outer, *near], depth)
        if op in ("task", "twin", "map"):
            policy = () if op == "twin" else self.policy()
            return Statement(self.name(), op, count=self.draw(st.integers(1, 4)) if op == "map" else 0, policy=policy)
        if not near or (op in ("nodemap", "each") and depth > 1):
            return None
        return self.of_nodes(op, near, outer, depth)

    def of_nodes(self, op: str, near: list[str], outer: list[str], depth: int) -> Statement | None:
        is_fan = op in ("nodemap", "each")
        first = self.draw(st.sampled_from(["item"] if is_fan and depth else near))
        if first == "item" and op in ("fallback", "race"):
            return None
        if op in ("join", "race"):
            others = [one for one in [*near, *outer] if one not in (first, "item")]
            if not others:
                return None
            chosen = self.draw(st.lists(st.sampled_from(others), min_size=1, max_size=2, unique=True))
            policy = self.policy() if op == "join" else ()
            return Statement(self.name(), "then" if op == "join" else op, (first, *chosen), policy=policy)
        if op == "then":
            return Statement(self.name(), op, (first,), policy=self.policy())
        if is_fan:
            policy = tuple(one for one in self.policy() if op == "nodemap" or one[0] != "fallback")
            return Statement(self.name(), op, (first,), count=self.draw(st.integers(2, 3)), policy=policy)
        ways = (self.draw(st.booleans()), self.draw(st.booleans())) if op == "branch" else (True, True)
        return Statement(self.name(), op, (first,), ways=ways)

    def answered_apart(self, many: list[str], depth: int) -> list[Statement]:
        """A node of which nothing else is made, and what answers its failure in another scope: items, or outcomes."""
        if not many or self.draw(st.booleans()):
            several = (
                Statement(self.name(), "nodemap", ("item",), count=2)
                if depth
                else Statement(self.name(), "map", count=2)
            )
            settled = Statement(self.name(), "settled", (several.name,))
            after = Statement(self.name(), "then", (settled.name,))
            lines = [several, settled, after, Statement(self.name(), "fallback", (after.name,))]
            self.failing.append(several.name)
            return lines
        node = Statement(self.name(), "then", ("item",)) if depth else Statement(self.name(), "task")
        if self.draw(st.booleans()):
            return [node, *self.answered_beside(node)]
        self.failing.append(node.name)
        both = Statement(self.name(), "then", ("item", node.name))
        if self.draw(st.booleans()):
            body = (both, Statement(self.name(), "fallback", (both.name,)))
        else:
            own = Statement(self.name(), "then", ("item",))
            body = (both, own, Statement(self.name(), "race", (both.name, own.name)))
        body = (*body, Statement(self.name(), "then", (body[-1].name,)))
        return [node, Statement(self.name(), "pipe", (self.draw(st.sampled_from(many)),), body)]

    def answered_beside(self, node: Statement) -> list[Statement]:
        """Several nodes after one, each with a fallback, of which one or the other fails."""
        lines: list[Statement] = []
        for _ in range(self.draw(st.integers(2, 3))):
            after = Statement(self.name(), "then", (node.name,))
            lines += [after, Statement(self.name(), "fallback", (after.name,))]
        self.failing.append(self.draw(st.sampled_from(lines[::2])).name)
        return lines

    def of_many(self, op: str, many: list[str], around: list[str], depth: int) -> Statement:
        of = self.draw(st.sampled_from(many))
        if op == "pipe":
            outer = [one for one in around if one != "item"]
            name = self.name()
            return Statement(name, op, (of,), self.lines(self.draw(st.integers(1, 4)), outer, depth + 1))
        if op == "many_then":
            return Statement(self.name(), op, (of,), policy=self.policy())
        return Statement(self.name(), op, (of,), count=self.draw(st.integers(1, 2)))


@st.composite
def programs(draw: Any) -> Program:
    """Programs of up to 9 lines at the top, and what goes wrong."""
    maker = _Maker(draw)
    lines = maker.lines(draw(st.integers(2, 9)), [], 0)
    names = [line.name for line in _flat(lines) if line.op not in ("twin", "pipe", "race", "pick", "call")]
    script: dict[str, str] = {}
    if names and draw(st.booleans()):
        for name in draw(st.lists(st.sampled_from(names), max_size=4, unique=True)):
            script[name] = draw(st.sampled_from(["fail", "once", "slow", "slow"]))
    for name in maker.failing:
        script[name] = draw(st.sampled_from(["fail", "fail", "once", "slow"]))
    return Program(
        lines,
        script,
        has_cache=draw(st.booleans()),
        on_error=draw(st.sampled_from(["continue", "stop"])),
        delivery=draw(st.sampled_from(["sync", "async"])),
        seed=draw(st.integers(0, 1000)),
    )


# How it is edited


def relabelled(program: Program) -> Program:
    lines = tuple(replace(line, label=f"label of {line.name}") for line in program.lines)
    return replace(program, lines=lines)


def moved(program: Program, draw: Any) -> Program:
    """The same lines in another order, each still below those that it uses."""
    waiting, lines, known = list(program.lines), [], set[str]()
    while waiting:
        free = [line for line in waiting if known.issuperset(_used(line))]
        line = draw(st.sampled_from(free))
        waiting.remove(line)
        lines.append(line)
        known.add(line.name)
    return replace(program, lines=tuple(lines))


def _used(line: Statement) -> set[str]:
    own = {"item", *(one.name for one in line.body)}
    return {*line.args, *(name for one in line.body for name in _used(one))} - own


def with_new_line(program: Program, draw: Any, name: str) -> Program:
    """One more task, anywhere."""
    place = draw(st.integers(0, len(program.lines)))
    lines = (*program.lines[:place], Statement(name, "task"), *program.lines[place:])
    return replace(program, lines=lines)
