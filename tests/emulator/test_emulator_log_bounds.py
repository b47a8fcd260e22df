"""What an emulator remembers is bounded, however long it serves."""

from __future__ import annotations

from runware_flow.emulator.service.log import Log, TaskEntry


def entry(number: int) -> TaskEntry:
    return TaskEntry(
        task_uuid=str(number),
        task_type="caption",
        model=None,
        channel="rest",
        delivery="sync",
        request={},
        asked_at=0.0,
        ready_at=[None],
        delivered_at=[None],
    )


def test_log_keeps_the_newest_entries_and_forgets_the_oldest():
    log = Log(retained=8)
    for number in range(100):
        log.enter(entry(number))
        log.reject({"taskUUID": str(number)})
        assert len(log.tasks) <= 10
        assert len(log.rejected) <= 10
    assert [task.task_uuid for task in log.asked][-8:] == [str(number) for number in range(92, 100)]
    assert log.task("0") is None
    assert log.task("99") is not None
    assert "retained" not in log.as_dict()
