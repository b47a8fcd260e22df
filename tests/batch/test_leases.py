"""What a batch tells other processes of its items, by the leases on them."""

from __future__ import annotations

import threading

import anyio
from service import art
from waiting import wait_until

from runware_flow import Failed, Flow, RunwareError
from runware_flow.batch.item import BatchItem, Work
from runware_flow.batch.leases import open_leases
from runware_flow.batch.source import Pulled
from runware_flow.graph.resume import Advice
from runware_flow.journal.ledger import Ledger
from runware_flow.journal.store import EndLeases, Entry, Lease, TakeLeases
from runware_flow.journal.values import decode_error
from runware_flow.journal.writer import open_writer


class GatedStore:
    """A store with leases, in memory, that carries nothing out while its gate is shut."""

    lease_seconds = 3600.0

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.begun = 0
        self.ended = []

    def open(self):
        pass

    def close(self):
        pass

    def renew_leases(self, numbers):
        return []

    def apply(self, changes):
        self.begun += 1
        self.gate.wait()
        answers = []
        for change in changes:
            if isinstance(change, EndLeases):
                self.ended += change.ended
            is_take = isinstance(change, TakeLeases)
            answers.append(Entry(Advice("buy", 1), leases=(Lease(7),) * len(change.items)) if is_take else None)
        return answers


def test_failure_of_an_item_reaches_other_processes_where_a_cancel_withdraws_its_record(run):
    async def main():
        store = GatedStore()
        async with open_writer(store) as writer:
            leases = open_leases(writer, "kites")
            flow = Flow()
            work = Work(Pulled(0, "a", "a"), flow, flow.then(art()), None, Ledger(writer, "kites"))
            await leases.take([work])
            leases.end(work, BatchItem(0, "a", "a", Failed(RunwareError("no kite"))))
            store.gate.clear()
            async with anyio.create_task_group() as group:
                group.start_soon(writer.write, EndLeases(()))  # a group is being written, so that the next one gathers
                await wait_until(lambda: store.begun == 2)
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await leases.take([work])
                assert scope.cancelled_caught
                store.gate.set()
            await leases.close()
        [(number, error)] = store.ended
        assert (number, str(decode_error(error))) == (7, "no kite")

    run(main)
