"""The service's rules, with no event loop: time goes in as a number."""

from __future__ import annotations

import pytest
from emulator_tasks import ask, caption, codes, image, make_id, make_service, open_session, poll, submit, text

from runware_flow.emulator.problems import Problem


def test_service_async_task_is_acknowledged_without_status() -> None:
    task = image(deliveryMethod="async", numberResults=3)
    frame = submit(make_service(), task)
    assert frame.data == [{"taskType": "imageInference", "taskUUID": task["taskUUID"]}]


def test_service_poll_shows_each_result_in_its_place() -> None:
    service = make_service(latency=(1.0, 2.0))
    task = image(deliveryMethod="async", numberResults=4)
    submit(service, task)
    assert [item["status"] for item in ask(service, task, 0.5).data] == ["processing"] * 4
    halfway, after = ask(service, task, 1.5).data, ask(service, task, 2.0).data
    assert [item["status"] for item in after] == ["success"] * 4
    for before, now in zip(halfway, after, strict=True):
        assert before["status"] == "processing" or before == now


def test_service_given_seed_counts_up_and_items_have_ids() -> None:
    service = make_service()
    task = image(deliveryMethod="async", numberResults=3, seed=10)
    submit(service, task)
    items = ask(service, task, 1.0).data
    assert [item["seed"] for item in items] == [10, 11, 12]
    assert len({item["imageUUID"] for item in items}) == 3


def test_service_cost_comes_only_when_asked_for_and_is_billed_when_ready() -> None:
    service = make_service()
    plain, costly = image(deliveryMethod="async"), image(deliveryMethod="async", includeCost=True)
    submit(service, plain, costly)
    assert service.log.billed == 0
    assert "cost" not in ask(service, plain, 1.0).data[0]
    cost = ask(service, costly, 1.0).data[0]["cost"]
    assert service.log.billed == pytest.approx(2 * cost)


def test_service_sync_task_is_pushed_once_and_then_unknown_to_polls() -> None:
    service = make_service()
    session = open_session(service)
    task = image()
    assert submit(service, task, session=session).is_empty
    assert service.next_due() == 1.0
    assert service.advance(1.0).sessions == {session}
    (frame,) = session.outbox
    assert "status" not in frame.data[0]
    service.sent(frame, 1.0)
    assert ask(service, task, 2.0).data == [
        {"taskType": "getResponse", "taskUUID": task["taskUUID"], "status": "processing"}
    ]
    details = submit(service, {"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]}).data[0]
    assert details["request"] == [task]
    assert details["response"] == {"data": frame.data}


def test_service_sync_task_not_yet_delivered_is_found_by_a_poll() -> None:
    service = make_service()
    task = image()
    service.receive([task], 0.0)
    assert ask(service, task, 1.0).data[0]["status"] == "success"


def test_service_results_of_one_task_ready_together_leave_together() -> None:
    service = make_service()
    session = open_session(service)
    submit(service, image(numberResults=3), image(), session=session)
    service.advance(1.0)
    assert [len(frame.data) for frame in session.outbox] == [3, 1]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("processing", ("processing", [])), ("empty", (None, [])), ("notFound", (None, ["taskNotFound"]))],
)
def test_service_poll_of_an_unknown_task_follows_the_switch(setting, expected) -> None:
    frame = submit(make_service(unknown_task=setting), poll(image()))
    assert (frame.data[0]["status"] if frame.data else None, codes(frame)) == expected


def test_service_same_task_twice_is_a_conflict_and_runs_once() -> None:
    service = make_service()
    task = image(deliveryMethod="async")
    submit(service, task)
    frame = submit(service, task)
    assert codes(frame) == ["conflictTaskUUID"]
    assert frame.status == 400
    assert frame.errors[0]["context"]["deliveryMethod"] == "async"
    service.advance(1.0)
    assert service.log.tasks[0].conflicts == 1
    assert len(service.log.tasks) == 1


def test_service_refused_task_does_not_burn_its_id() -> None:
    service = make_service()
    task = image(deliveryMethod="async")
    assert codes(submit(service, {**task, "width": 1})) == ["invalidWidth"]
    assert submit(service, task).data


def test_service_mixed_batch_is_answered_with_both_and_200() -> None:
    good, bad = image(deliveryMethod="async"), image(deliveryMethod="async", steps=0)
    frame = submit(make_service(), good, bad)
    assert [item["taskUUID"] for item in frame.data] == [good["taskUUID"]]
    assert [entry["taskUUID"] for entry in frame.errors] == [bad["taskUUID"]]
    assert frame.status == 200


def test_service_session_keeps_its_frames_for_a_resumed_session() -> None:
    service = make_service()
    session = open_session(service)
    connection = object()
    session.attach(connection, lambda: None)
    submit(service, image(), session=session)
    service.sessions.lose(session, connection, 0.5)
    service.advance(1.0)
    assert open_session(service, session.session_id, 100.0) is session
    assert len(session.outbox) == 1


def test_service_session_is_forgotten_after_the_window() -> None:
    service = make_service()
    session = open_session(service)
    connection = object()
    session.attach(connection, lambda: None)
    service.sessions.lose(session, connection, 0.0)
    fresh = open_session(service, session.session_id, 121.0)
    assert fresh.session_id != session.session_id
    assert not fresh.outbox


def test_service_sync_task_beyond_the_budget_is_reported_and_goes_on() -> None:
    service = make_service(sync_budget=0.5)
    session = open_session(service)
    task = image()
    submit(service, task, session=session)
    service.advance(0.5)
    assert codes(session.outbox.popleft()) == ["requestTimeout"]
    assert ask(service, task, 1.0).data[0]["status"] == "success"
    assert not session.outbox


def test_service_text_results_have_no_id_of_their_own() -> None:
    service = make_service()
    task = text("Hello", numberResults=2, deliveryMethod="async", includeUsage=True)
    submit(service, task)
    items = ask(service, task, 1.0).data
    assert [set(item) for item in items] == [
        {"taskType", "taskUUID", "text", "finishReason", "usage", "status"} for _ in range(2)
    ]
    assert all("Hello" in item["text"] for item in items)


def test_service_prompt_versions_count_the_results_of_promptenhance() -> None:
    service = make_service()
    task = {"taskType": "promptEnhance", "taskUUID": make_id(), "prompt": "a kite", "promptVersions": 3}
    submit(service, {**task, "deliveryMethod": "async"})
    texts = [item["text"] for item in ask(service, task, 1.0).data]
    assert len(set(texts)) == 3
    assert all(one.startswith("a kite") for one in texts)


def test_service_caption_of_an_upscale_of_an_image_says_the_prompt() -> None:
    service = make_service()
    picture = image("a red kite", deliveryMethod="async")
    submit(service, picture)
    (first,) = ask(service, picture, 1.0).data
    big = {"taskType": "upscale", "taskUUID": make_id(), "model": "runware:504@1", "upscaleFactor": 4}
    big = {**big, "inputs": {"image": first["imageUUID"]}, "deliveryMethod": "async"}
    submit(service, big, now=1.0)
    (second,) = ask(service, big, 2.0).data
    words = caption(second["imageURL"], deliveryMethod="async")
    submit(service, words, now=2.0)
    (third,) = ask(service, words, 3.0).data
    assert "a red kite" in third["text"]
    assert "1024 x 512" in third["text"]


def test_service_training_tells_its_progress() -> None:
    service = make_service()
    task = {"taskType": "training", "taskUUID": make_id(), "model": "runware:flux-1-dev@style-lora-training"}
    task |= {"inputs": {"images": ["https://example.com/a.jpg"]}, "importModel": {"name": "mine"}}
    reply = service.receive([task], 0.0)
    assert not reply.frame.errors
    assert [item["progress"] for item in ask(service, task, 0.5).data] == [50]


def test_service_result_addresses_die_after_their_ttl() -> None:
    service = make_service()
    task = image(deliveryMethod="async", ttl=60)
    submit(service, task)
    (item,) = ask(service, task, 1.0).data
    assert service.state.find_medium(item["imageURL"], 60.0) is not None
    assert service.state.find_medium(item["imageURL"], 61.0) is None


def test_service_unknown_medium_is_refused_at_once() -> None:
    frame = submit(make_service(), caption(make_id()))
    assert codes(frame) == ["mediaNotFound"]
    assert frame.errors[0]["parameter"] == "inputs.image"


def test_service_several_polls_in_one_request_are_one_answer_or_one_each() -> None:
    tasks = [image(deliveryMethod="async") for _ in range(2)]
    polls = [poll(task) for task in tasks]
    together, apart = make_service(), make_service(poll_frames="single")
    for service in (together, apart):
        submit(service, *tasks)
    assert len(submit(together, *polls).data) == 2
    reply = apart.receive(polls, 0.0)
    assert reply.frame.is_empty
    assert [len(frame.data) for frame in reply.frames] == [1, 1]
    assert together.log.polls == 2
    assert together.log.poll_requests == 1


@pytest.mark.parametrize("junk", [None, 1, "x", [], [[]], {"taskType": None}, {"taskType": 5}, {"taskType": []}])
def test_service_junk_in_a_request_is_an_error_each(junk) -> None:
    frame = submit(make_service(), junk, junk)
    assert len(frame.errors) == 2
    assert not frame.data


def test_service_key_is_checked() -> None:
    service = make_service()
    for key, code in ((None, "missingApiKey"), ("wrong", "invalidApiKey"), (7, "missingApiKey")):
        problem = service.authenticate({"apiKey": key}, 0.0)
        assert isinstance(problem, Problem)
        assert problem.code == code
        assert problem.entry("authentication")["taskType"] == "authentication"


def test_service_log_has_when_each_result_was_ready_and_delivered() -> None:
    service = make_service()
    task = image(deliveryMethod="async", numberResults=2)
    submit(service, task)
    service.advance(1.0)
    frame = submit(service, poll(task), now=1.5)
    service.sent(frame, 1.5)
    (entry,) = service.log.asked
    assert entry.ready_at == [1.0, 1.0]
    assert entry.delivered_at == [1.5, 1.5]
    assert entry.is_delivered
    assert entry.polls == 1
    assert service.log.as_dict()["tasks"][0]["task_uuid"] == task["taskUUID"]


def test_service_forgets_the_oldest_tasks_beyond_its_memory() -> None:
    service = make_service(retained_tasks=2)
    tasks = [image(deliveryMethod="async") for _ in range(3)]
    submit(service, *tasks)
    assert [item["taskType"] for item in submit(service, *map(poll, tasks)).data] == [
        "getResponse",
        "imageInference",
        "imageInference",
    ]


def test_service_full_queue_refuses_with_429() -> None:
    service = make_service(capacity=2)
    tasks = [image(deliveryMethod="async") for _ in range(3)]
    frame = submit(service, *tasks)
    assert codes(frame) == ["rateLimitExceeded"]
    service.advance(1.0)
    assert submit(service, tasks[2], now=1.0).data
    assert submit(make_service(capacity=0), image()).status == 429


def test_service_busy_model_lets_tasks_wait_their_turn() -> None:
    service = make_service(parallel=2)
    tasks = [image(deliveryMethod="async") for _ in range(5)]
    submit(service, *tasks)
    for now, done in ((1.0, 2), (2.0, 4), (3.0, 5)):
        service.advance(now)
        assert sum(entry.ready_at != [None] for entry in service.log.tasks) == done
