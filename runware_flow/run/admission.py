"""Admission: the one place that decides whether a node may send its request now, or waits without a worker.

What is asked, in this order and in one synchronous step: the limits of the flow, its budget, the client's governor.
A node gets all that it needs or nothing. If it has to wait, it is parked: what is kept of it is where it stands, and
its builder is called again once it may go. Then its places are taken already, so whoever comes meanwhile does not
overtake it.

A `Desk` is shared by all that share limits: the one machine of a run, or those of all items of a batch. An `Admission`
is the desk's window for one machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.graph.limits import Limits, Line, Need, modality_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runware_flow.graph.limits import Ticket
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.run.pauses import Pauses
    from runware_flow.run.requester import PreparedTask

__all__ = ("Admission", "Desk", "Grant")

_NOTHING = Need(())


class Grant:
    """What a node was given; it is given back once, whatever becomes of the node."""

    __slots__ = ("is_open", "need")

    def __init__(self, need: Need) -> None:
        self.need = need
        self.is_open = True


class Desk:
    """Limits, and the line of those who wait, for all machines that share them."""

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self._limits = Limits(limits or {})
        self._line: Line[tuple[Admission, ScopeRun, Step]] = Line()
        self._needs: dict[tuple[Any, ...], Need] = {}

    def need_of(self, step: Step, request: PreparedTask | None) -> Need:
        """Return what a node needs; equal nodes share one `Need`."""
        name = step.spec.policy.limit
        if not self._limits.sizes:
            return _NOTHING
        if request is None:
            kind: tuple[Any, ...] = (None, None, None, name)
        else:
            kind = (request.task_type, request.model, modality_of(request.wire), name)
        need = self._needs.get(kind)
        if need is None:
            need = self._needs[kind] = Need(self._limits.keys_of(*kind))
        return need

    def ask(self, need: Need) -> Grant | None:
        """Take all that is needed, or nothing."""
        if not need.keys:
            return Grant(need)
        if self._line.has(need) or not self._can_go(need):
            return None
        return self._take(need)

    def wait(self, need: Need, who: tuple[Admission, ScopeRun, Step]) -> Ticket[Any]:
        """Let a node that was refused wait in the line."""
        return self._line.add(need, who)

    def give_back(self, grant: Grant) -> None:
        """Give back what was given, and let those go who can go now. A second time does nothing."""
        if not grant.is_open:
            return
        grant.is_open = False
        self._limits.give_back(grant.need.limits)
        if self._line:
            self._serve(grant.need.keys)

    def _serve(self, keys: Iterable[str]) -> None:
        while (called := self._line.call(keys, self._can_go)) is not None:
            need, (admission, run, step) = called
            admission.let_go(run, step, self._take(need))

    def _can_go(self, need: Need) -> bool:
        return self._limits.have_room(need.limits)

    def _take(self, need: Need) -> Grant:
        self._limits.take(need.limits)
        return Grant(need)


class Admission:
    """Where the nodes of one machine ask."""

    def __init__(self, machine: FlowMachine, desk: Desk, pauses: Pauses) -> None:
        self._machine = machine
        self._desk = desk
        self._pauses = pauses
        self._tickets: dict[tuple[ScopeRun, Step], Ticket[Any]] = {}
        self._granted: dict[tuple[ScopeRun, Step], Grant] = {}

    def recall(self, run: ScopeRun, step: Step) -> Grant | None:
        """Return what a node was given while it was parked. One that comes for another reason leaves the line."""
        if self._tickets and (ticket := self._tickets.pop((run, step), None)) is not None:
            ticket.who = None
        return self._granted.pop((run, step), None) if self._granted else None

    def ask(self, run: ScopeRun, step: Step, request: PreparedTask | None) -> Grant | None:
        """Admit a node, or park it until it is; a run that has stopped admits nobody.

        Args:
            request: what it is about to send; `None` for a function.
        """
        desk = self._desk
        need = desk.need_of(step, request)
        if self._machine.stopped is None and (grant := desk.ask(need)) is not None:
            return grant
        self._machine.park(run, step)
        if (run, step) in self._machine.waiting:  # else it was settled at once, since nobody needs it any more
            self._tickets[run, step] = desk.wait(need, (self, run, step))
        return None

    def let_go(self, run: ScopeRun, step: Step, grant: Grant) -> None:
        """Let a parked node go on, with what it needs."""
        del self._tickets[run, step]
        self._granted[run, step] = grant
        self._machine.unpark(run, step)
        self._pauses.ring()

    def give_back(self, grant: Grant | None) -> None:
        """Give back what a node was given; a second time does nothing."""
        if grant is not None:
            self._desk.give_back(grant)

    def forget(self, run: ScopeRun, step: Step) -> None:
        """Let a node that is not needed any more leave the line, or give back what it was about to take up."""
        self.give_back(self.recall(run, step))

    def close(self) -> None:
        """Leave the line, and give back what nobody has taken up: the run has stopped. Doing it twice is fine."""
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ticket.who = None
        granted, self._granted = self._granted, {}
        for grant in granted.values():
            self._desk.give_back(grant)
