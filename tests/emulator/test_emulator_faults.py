"""Faults as data: how they are written, whom they meet, what they do to the service."""

from __future__ import annotations

import pytest
from emulator_tasks import ask, codes, image, make_service, open_session, poll, submit

from runware_flow.emulator import Emulator
from runware_flow.emulator.network.faults import FAULT_KINDS, Fault, FaultBook, parse_fault


def test_fault_text_is_read_with_its_numbers() -> None:
    fault = parse_fault("http:nth=3,status=429,retry-after=0.5,code=rateLimitExceeded")
    assert fault == Fault(kind="http", nth=3, status=429, retry_after=0.5, code="rateLimitExceeded")
    assert parse_fault("never") == Fault(kind="never")


@pytest.mark.parametrize("text", ["", "explode", "http:status", "http:colour=red", "http:nth=three", "http:kind=never"])
def test_fault_text_that_means_nothing_is_an_error(text) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_fault(text)


@pytest.mark.parametrize(
    ("text", "strikes"),
    [
        ("kill", [1, 1, 1, 1, 1]),
        ("kill:nth=3", [0, 0, 1, 0, 0]),
        ("kill:nth=2,times=2", [0, 1, 1, 0, 0]),
        ("kill:times=2", [1, 1, 0, 0, 0]),
        ("kill:every=2", [0, 1, 0, 1, 0]),
    ],
)
def test_fault_strikes_at_the_events_it_names(text, strikes) -> None:
    book = FaultBook([text])
    assert [int(book.trigger("kill") is not None) for _ in range(5)] == strikes
    assert book.trigger("duplicate") is None


def test_fault_given_as_one_text_is_one_fault_not_its_letters() -> None:
    assert FaultBook("kill:nth=1").trigger("kill") is not None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"fault": ["fail"]}, "Emulator has no option 'fault'"), ({"latency": "fast"}, "latency= is seconds")],
)
def test_emulator_option_that_makes_no_sense_is_named(options, sentence) -> None:
    with pytest.raises(TypeError, match=sentence):
        Emulator(**options)


def test_fault_counts_only_the_tasks_it_is_meant_for() -> None:
    book = FaultBook(["fail:nth=2,prompt=kite,task_type=imageInference"])
    struck = [book.trigger("fail", image(prompt)) for prompt in ("a kite", "a boat", "two kites", "a kite")]
    assert [one is not None for one in struck] == [False, False, True, False]


def test_fault_every_kind_is_described() -> None:
    assert all(FAULT_KINDS.values())


def test_failing_task_tells_its_code_beside_the_data() -> None:
    service = make_service("fail:code=timeoutProvider,index=1,shape=errors")
    task = image(deliveryMethod="async", numberResults=3)
    submit(service, task)
    frame = ask(service, task, 1.0)
    assert [item["status"] for item in frame.data] == ["success", "success"]
    assert codes(frame) == ["timeoutProvider"]
    assert frame.errors[0]["status"] == "error"
    assert frame.status == 200
    assert service.log.tasks[0].errors == ["timeoutProvider"]


def test_failing_task_tells_its_code_in_the_item_if_so_set() -> None:
    service = make_service("fail:code=taskFailed,shape=item")
    task = image(deliveryMethod="async")
    submit(service, task)
    (item,) = ask(service, task, 1.0).data
    assert item["status"] == "error"
    assert item["error"]["code"] == "taskFailed"
    assert service.log.billed == 0


def test_never_finishing_task_is_processing_for_ever() -> None:
    service = make_service("never:nth=1")
    first, second = image(deliveryMethod="async"), image(deliveryMethod="async")
    submit(service, first, second)
    assert ask(service, first, 1e6).data[0]["status"] == "processing"
    assert ask(service, second, 1e6).data[0]["status"] == "success"


def test_swallowed_acknowledgement_leaves_the_task_running() -> None:
    service = make_service("swallow-ack:nth=2")
    tasks = [image(deliveryMethod="async") for _ in range(3)]
    frame = submit(service, *tasks)
    assert frame.is_lost
    assert [item["taskUUID"] for item in frame.data] == [tasks[0]["taskUUID"], tasks[2]["taskUUID"]]
    assert ask(service, tasks[1], 1.0).data[0]["status"] == "success"


def test_dropped_poll_is_not_answered_and_the_next_one_is() -> None:
    service = make_service("drop-poll:nth=1")
    task = image(deliveryMethod="async")
    submit(service, task)
    assert submit(service, poll(task)).is_empty
    assert submit(service, poll(task)).data


def test_delayed_and_empty_acknowledgements_are_as_configured() -> None:
    service = make_service("delay-ack:nth=1,seconds=0.3", "empty-ack:nth=2")
    assert submit(service, image(deliveryMethod="async")).delay == 0.3
    frame = submit(service, image(deliveryMethod="async"))
    assert frame.is_acknowledgement
    assert frame.body() == {"data": []}


def test_rejected_task_was_never_accepted() -> None:
    service = make_service("reject:nth=1,code=insufficientCredits,status=402")
    task = image(deliveryMethod="async")
    frame = submit(service, task)
    assert (frame.status, codes(frame)) == (402, ["insufficientCredits"])
    assert submit(service, task).data


def test_slow_task_takes_longer() -> None:
    service = make_service("slow:seconds=2")
    session = open_session(service)
    submit(service, image(), session=session)
    assert service.next_due() == 3.0


def test_refusals_have_the_configured_shape() -> None:
    service = make_service("reject:nth=1,shape=error")
    body = submit(service, image()).body()
    assert body["error"]["code"] == "invalidParameter"
    assert "errors" not in body


def test_rotated_session_keeps_its_frames_under_a_new_id() -> None:
    service = make_service("rotate-session")
    session = open_session(service)
    before = session.session_id
    task = image()
    submit(service, task, session=session)
    assert open_session(service, before) is session
    assert session.session_id != before
    service.advance(1.0)
    assert session.outbox[0].data[0]["taskUUID"] == task["taskUUID"]


def test_swallowed_pong_is_nothing() -> None:
    service = make_service("swallow-pong:nth=1")
    assert submit(service, {"taskType": "ping"}).is_empty
    assert submit(service, {"taskType": "ping"}).data == [{"taskType": "ping", "pong": True}]
