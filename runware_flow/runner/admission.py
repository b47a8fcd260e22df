"""Admission: decides whether a node may send its request now, or waits without a worker.

What is asked, in this order and in one synchronous step: the limits of the flow, its budget, the send window of the
task's model. A node gets all that it needs or nothing. If it has to wait, it is parked: what is kept of it is where it
stands, and its builder is called again once it may go. Then its places are taken already, so one that comes meanwhile
does not overtake it. A node whose task the service refuses to take is parked too; it comes before those that were not
sent yet, and keeps what the budget reserved for it.

An `Admission` is shared by all that share limits: the one machine of a run, or those of all items of a batch. A
`RunAdmission` is where the nodes of one machine ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from runware_flow.client.send_windows import SlotWaiter, window_of
from runware_flow.client.wake_event import WakeEvent
from runware_flow.errors import BudgetExceeded
from runware_flow.graph.limits import Limits, Line, Need, modality_of, window_key
from runware_flow.runner.requester import WindowedClient

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runware_flow.client.send_windows import SendWindows, Slot
    from runware_flow.graph.budget import Reservation
    from runware_flow.graph.limits import Ticket
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.outcomes import Abandoned
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.runner.balance import BalanceWarning
    from runware_flow.runner.budget import BudgetAccount
    from runware_flow.runner.pauses import Pauses
    from runware_flow.runner.requester import PreparedTask
    from runware_flow.session.window import WindowState

__all__ = ("Admission", "Permit", "RunAdmission")

_NOTHING = Need(())


class Permit:
    """The permit of a node; it is given back once, however the node ends.

    Attributes:
        slot: room in the send window of its model, if that is closed.
        reservation: what the budget keeps for it, until that is settled.
    """

    __slots__ = ("is_open", "need", "reservation", "slot")

    def __init__(self, need: Need, slot: Slot | None) -> None:
        self.need = need
        self.slot = slot
        self.is_open = True
        self.reservation: Reservation | None = None


class _Reserved(NamedTuple):
    """The reservation of a refused task.

    Attributes:
        is_in_doubt: an earlier send of the task was not answered, so it may be billed.
        task_uuid: under which it may be collected later; `None` without a journal.
    """

    reservation: Reservation
    is_in_doubt: bool
    task_uuid: str | None


class Admission:
    """Limits, the send windows, and the queue of waiting nodes, for all machines that share them.

    Args:
        client: what the tasks are sent with; its send windows are asked, if it has any.

    Attributes:
        account: what they pay with, if there is a budget.
        balance: begins with the first request, if there is a budget.
        has_windows: whether the client has send windows.
    """

    def __init__(
        self,
        limits: Mapping[str, int] | None,
        client: object,
        account: BudgetAccount | None = None,
        balance: BalanceWarning | None = None,
    ) -> None:
        self.account = account
        self.balance = balance
        self._limits = Limits(limits or {})
        self._line: Line[tuple[RunAdmission, ScopeRun, Step]] = Line()
        self._needs: dict[tuple[Any, ...], Need] = {}
        self._windows: SendWindows | None = client.windows if isinstance(client, WindowedClient) else None
        self.has_windows = self._windows is not None
        self._waiter = SlotWaiter(WakeEvent(), lambda model: self._line.count(window_key(model)))
        self._is_held = False

    def __repr__(self) -> str:
        return f"<Admission {self._limits!r}, waits for {list(self._waiter.wanted)}>"

    @property
    def is_idle(self) -> bool:
        """Whether all permits were given back, and nothing waits for a slot."""
        return not any(self._limits.taken.values()) and not self._waiter.wanted and not self._waiter.offered

    def refused_count(self) -> int:
        """How many nodes wait because the service has refused tasks of their models."""
        waited_for = self._line.keys()
        return sum(self._line.count(key) for key in waited_for if key.startswith(window_key("")))

    def is_refusing(self, model: str | None) -> bool:
        """Whether the service has lately refused tasks of a model."""
        return self._windows is not None and model in self._windows.closed

    def need_of(self, step: Step, request: PreparedTask | None) -> Need:
        """Return what a node needs; equal nodes share one `Need`."""
        name = step.spec.policy.limit
        if not self._limits.sizes and (self._windows is None or request is None):
            return _NOTHING
        if request is None:
            kind: tuple[Any, ...] = (None, None, None, name)
        elif not self._limits.sizes:
            kind = (request.task_type, request.model, None, None)
        else:
            kind = (request.task_type, request.model, modality_of(request.wire), name)
        need = self._needs.get(kind)
        if need is None:
            need = self._needs[kind] = self._read(kind)
        return need

    def _read(self, kind: tuple[Any, ...]) -> Need:
        task_type, model, _, _ = kind
        window = None if self._windows is None or task_type is None else window_of(task_type, model)
        return Need(self._limits.keys_of(*kind), window)

    @property
    def is_unlimited(self) -> bool:
        """Whether any request is admitted at once: no limit, no budget, nothing waits, and no window is closed."""
        if self._limits.sizes or self.account is not None or self._is_held or self._line:
            return False
        return self._windows is None or not self._windows.closed

    def has_room(self, need: Need) -> bool:
        """Tell whether all that is needed is free, and no node waits for the same."""
        if not need.keys:
            return True
        return not self._is_held and not self._line.has(need) and self._could_go(need) and self._window_has_room(need)

    def take(self, need: Need) -> Permit:
        """Take all that is needed; the caller has checked `has_room`."""
        return self._take(need) if need.keys else Permit(need, None)

    def wait(self, need: Need, who: tuple[RunAdmission, ScopeRun, Step], number: int | None = None) -> Ticket[Any]:
        """Let a node wait in the queue; a refused one keeps its turn."""
        ticket = self._line.add(need, who, number)
        self._want_slot(need)
        return ticket

    def give_back(self, permit: Permit) -> None:
        """Give a permit back, and let waiting nodes go that can go now. A second call does nothing."""
        if not permit.is_open:
            return
        permit.is_open = False
        if permit.need.limits:
            self._limits.give_back(permit.need.limits)
        if permit.slot is not None:
            permit.slot.close()
        if self._line:
            self._serve(permit.need.limits)

    # What waits

    @property
    def event(self) -> WakeEvent:
        """Set when there is a slot to be used: then `catch_up` is to be called."""
        return self._waiter.event

    @event.setter
    def event(self, event: WakeEvent) -> None:
        self._waiter.event = event

    def catch_up(self) -> None:
        """Use the slots that have come."""
        while self._waiter.offered and self._windows is not None:
            model, slot = next(iter(self._waiter.offered.items()))
            self._serve([window_key(model)])
            if self._waiter.offered.get(model) is slot:  # nothing can use it now
                del self._waiter.offered[model]
                slot.close()

    async def attend(self) -> None:
        """Catch up until cancelled, for an admission that no run attends to."""
        while True:
            await self.event.wait()
            self.catch_up()

    def hold(self) -> None:
        """Pause grants: no worker would use them."""
        self._is_held = True
        self.close()

    def go_on(self) -> None:
        """Resume grants."""
        self._is_held = False
        if self._line:
            self._serve(self._line.keys())

    def in_use(self) -> dict[str, int]:
        """How many permits of each limit are taken."""
        return dict(self._limits.taken)

    def resize(self, limits: Mapping[str, int]) -> None:
        """Change the sizes of existing limits. Permits beyond a smaller size stay until they are given back."""
        self._limits.sizes.update(limits)
        if self._line:
            self._serve(self._line.keys())

    def window_states(self) -> dict[str, WindowState]:
        """The state of the send windows that had a refusal, for other clients; may be called from any thread."""
        return {} if self._windows is None else self._windows.states()

    def hold_windows(self, peaks: Mapping[str, int]) -> None:
        """Hold the send windows of these models because other clients share the work."""
        if self._windows is not None:
            self._windows.hold(peaks)

    def close(self) -> None:
        """Wait for no slot any more."""
        if self._windows is not None:
            self._windows.leave(self._waiter)

    def _serve(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        while (called := self._line.call(keys, self._can_go)) is not None:
            need, (run_admission, run, step) = called
            run_admission.let_go(run, step, self._take(need))
        for key in keys:
            for need in self._line.needs(key):
                self._want_slot(need)

    def _want_slot(self, need: Need) -> None:
        if self._windows is None or need.model is None or self._is_held or not self._could_go(need):
            return
        self._windows.want(need.model, self._waiter, self._line.first_number(window_key(need.model)))

    def _could_go(self, need: Need) -> bool:
        """Tell whether a node could go, if the send window has room."""
        return self._limits.have_room(need.limits)

    def _can_go(self, need: Need) -> bool:
        """Tell whether a node that waits can go."""
        if self._is_held or not self._could_go(need):
            return False
        return need.model in self._waiter.offered or self._window_has_room(need)

    def _window_has_room(self, need: Need) -> bool:
        return self._windows is None or need.model is None or self._windows.has_room(need.model)

    def _take(self, need: Need) -> Permit:
        self._limits.take(need.limits)
        return Permit(need, None if self._windows is None or need.model is None else self._take_slot(need.model))

    def _take_slot(self, model: str) -> Slot | None:
        assert self._windows is not None
        return self._waiter.offered.pop(model, None) or self._windows.take(model)


class RunAdmission:
    """Admission for the nodes of one machine."""

    def __init__(self, machine: FlowMachine, admission: Admission, pauses: Pauses) -> None:
        self._machine = machine
        self._admission = admission
        self._pauses = pauses
        self._tickets: dict[tuple[ScopeRun, Step], Ticket[Any]] = {}
        self._models: dict[tuple[ScopeRun, Step], str | None] = {}
        """The models whose windows they wait for, of nodes with a ticket."""
        self._granted: dict[tuple[ScopeRun, Step], Permit] = {}
        self._reserved: dict[tuple[ScopeRun, Step], _Reserved] = {}
        """What the budget keeps for nodes whose tasks were refused."""
        self._has_saved = False
        """Whether a node of this machine may wait for the budget."""

    @property
    def balance(self) -> BalanceWarning | None:
        """The warning that begins when a request is about to be sent."""
        return self._admission.balance

    @property
    def has_windows(self) -> bool:
        """Whether the client has send windows, so that it gives back what the service refuses."""
        return self._admission.has_windows

    @property
    def waits_for_window(self) -> bool:
        """Whether a node of this machine waits because the service refuses tasks of its model."""
        return bool(self._tickets) and any(map(self._admission.is_refusing, self._models.values()))

    def restore(self, run: ScopeRun, step: Step) -> Permit | None:
        """Return the permit that a node got while it was parked; a node without one leaves the queue."""
        if self._tickets and (ticket := self._tickets.pop((run, step), None)) is not None:
            ticket.who = None
            del self._models[run, step]
        permit = self._granted.pop((run, step), None) if self._granted else None
        if permit is not None and self._reserved:
            permit.reservation = self._take_reserved(run, step)
        return permit

    def refused(
        self,
        run: ScopeRun,
        step: Step,
        permit: Permit,
        number: int | None,
        in_doubt: Abandoned | None = None,
        *,
        task_uuid: str | None = None,
    ) -> None:
        """Park a node whose task the service has refused to take, until it may be sent again.

        Args:
            number: its place in the queue, from its first refusal; `None` for the last place.
            in_doubt: how the node ends if it is not sent again, since an earlier send of its task may have arrived.
            task_uuid: under which the task may be collected later; `None` without a journal.
        """
        reservation, permit.reservation = permit.reservation, None
        if reservation is not None:
            self._reserved[run, step] = _Reserved(reservation, in_doubt is not None, task_uuid)
        self._admission.give_back(permit)
        self._machine.park(run, step, in_doubt)
        if (run, step) in self._machine.waiting:
            self._models[run, step] = permit.need.model
            self._tickets[run, step] = self._admission.wait(permit.need, (self, run, step), number)
        else:
            self.release(run, step)

    def release(self, run: ScopeRun, step: Step) -> None:
        """End the reservation of a refused task that is not sent again; one in doubt keeps its cost reserved."""
        if self._reserved and (reserved := self._reserved.pop((run, step), None)) is not None:
            assert self._admission.account is not None
            reservation, is_in_doubt, task_uuid = reserved
            self._admission.account.end(reservation, None, may_be_billed=is_in_doubt, task_uuid=task_uuid)

    def _take_reserved(self, run: ScopeRun, step: Step) -> Reservation | None:
        reserved = self._reserved.pop((run, step), None) if self._reserved else None
        return None if reserved is None else reserved.reservation

    def admit(
        self, run: ScopeRun, step: Step, request: PreparedTask | None, known_uuid: str | None = None
    ) -> Permit | None:
        """Admit a node, or park it until it is; a run that has stopped admits none, and none that is not
        needed any more.

        Args:
            request: what it is about to send; `None` for a function.
            known_uuid: the taskUUID under which an earlier run may have sent it, so that it is collected.

        Raises:
            BudgetExceeded: the budget does not allow it, whatever comes back from others.
        """
        admission = self._admission
        need = admission.need_of(step, request)
        if admission.is_unlimited and self._machine.may_send(run, step):
            return Permit(need, None)
        if self._machine.may_send(run, step) and admission.has_room(need):
            if admission.account is None or request is None:
                return admission.take(need)
            reservation = self._take_reserved(run, step)
            if reservation is None:
                reservation = self._reserve(admission.account, run, step, request, known_uuid)
            if reservation is None:
                self._machine.park(run, step)
                return None
            permit = admission.take(need)
            permit.reservation = reservation
            return permit
        self._machine.park(run, step)
        if (run, step) in self._machine.waiting:  # else it was settled at once, since nothing needs it any more
            self._models[run, step] = need.model
            self._tickets[run, step] = admission.wait(need, (self, run, step))
        return None

    def admit_hedge(self, run: ScopeRun, step: Step, request: PreparedTask) -> Permit | None:
        """Admit a second request of a node that has one in flight, if all that it needs is free now."""
        admission = self._admission
        need = admission.need_of(step, request)
        if not self._machine.may_send(run, step) or not admission.has_room(need):
            return None
        permit = admission.take(need)
        if admission.account is not None:
            try:
                permit.reservation = admission.account.reserve(request, step.spec, None)
            except BudgetExceeded:  # the node has its request, and needs no second one
                permit.reservation = None
            if permit.reservation is None:
                admission.give_back(permit)
                return None
        return permit

    def pay(
        self, run: ScopeRun, step: Step, request: PreparedTask, known_uuid: str | None, permit: Permit
    ) -> Permit | None:
        """Have the budget keep what a node needs that got its places while it was parked; else as `admit`."""
        account = self._admission.account
        if self._machine.may_send(run, step):
            if account is None or permit.reservation is not None:
                return permit
            permit.reservation = self._reserve(account, run, step, request, known_uuid)
            if permit.reservation is not None:
                return permit
        self._admission.give_back(permit)
        self._machine.park(run, step)
        return None

    def _reserve(
        self, account: BudgetAccount, run: ScopeRun, step: Step, request: PreparedTask, known_uuid: str | None
    ) -> Reservation | None:
        waiter = (self, run, step)
        if known_uuid is not None:
            reservation = account.collect(request, known_uuid, waiter)
        else:
            reservation = account.reserve(request, step.spec, waiter)
        self._has_saved = self._has_saved or reservation is None
        return reservation

    def retry_reservation(self, run: ScopeRun, step: Step) -> bool:
        """Let a node that waited for the budget try again; tells whether it still waits."""
        if (run, step) not in self._machine.waiting:
            return False
        self._machine.unpark(run, step)
        self._pauses.set()
        return True

    @property
    def has_budget(self) -> bool:
        """Whether its cost counts for a budget, so that the request must ask for the cost."""
        return self._admission.account is not None

    def settle(
        self,
        permit: Permit | None,
        cost: float | None,
        *,
        may_be_billed: bool,
        task_uuid: str | None,
        has_ended: bool = False,
    ) -> None:
        """Tell the budget what became of a request; see `BudgetAccount.end`."""
        if permit is not None and permit.reservation is not None and self._admission.account is not None:
            reservation, permit.reservation = permit.reservation, None
            self._admission.account.end(
                reservation, cost, may_be_billed=may_be_billed, task_uuid=task_uuid, has_ended=has_ended
            )

    def let_go(self, run: ScopeRun, step: Step, permit: Permit) -> None:
        """Let a parked node go on, with its permit."""
        del self._tickets[run, step], self._models[run, step]
        self._granted[run, step] = permit
        self._machine.unpark(run, step)
        self._pauses.set()

    def give_back(self, permit: Permit | None) -> None:
        """Give back the permit of a node whose attempt has ended; a second call does nothing."""
        if permit is not None:
            if permit.reservation is not None:  # it is not settled, so nothing was sent
                self.settle(permit, None, may_be_billed=False, task_uuid=None)
            self._admission.give_back(permit)
        if self._admission.account is not None:
            self._admission.account.recheck()

    def forget(self, run: ScopeRun, step: Step) -> None:
        """Let a node that is not needed any more leave the queue, or give back the permit that it was granted."""
        self.release(run, step)
        self.give_back(self.restore(run, step))

    def close(self) -> None:
        """The run has stopped: leave the queue, and give back granted permits. May be called twice."""
        tickets, self._tickets = self._tickets, {}
        self._models.clear()
        for ticket in tickets.values():
            ticket.who = None
        granted, self._granted = self._granted, {}
        for permit in granted.values():
            self._admission.give_back(permit)
        for run, step in list(self._reserved):
            self.release(run, step)
        if self._has_saved and self._admission.account is not None:
            self._has_saved = False
            self._admission.account.leave(self)
