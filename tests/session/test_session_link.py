"""The connection's side, by transcript: opening, authenticating, keeping alive, connecting again."""

from __future__ import annotations

import pytest
from session_conversation import (
    PING,
    SESSION,
    auth,
    done,
    errors,
    item,
    opened,
    options,
    playbook,
    problem,
    received,
    submit,
    task,
    welcome,
)

from runware_flow.errors import ClientStateError
from runware_flow.session.commands import (
    CloseConnection,
    Deliver,
    EndSession,
    Log,
    OpenConnection,
    Send,
    SessionReady,
    SetTimer,
    Settle,
)
from runware_flow.session.events import (
    ConnectionLost,
    ConnectionOpened,
    ConnectionRefused,
    ConnectRequested,
    FrameUnreadable,
    SessionClosed,
    TaskSubmitted,
    TaskWithdrawn,
    TimerFired,
)
from runware_flow.session.link import TRANSITIONS, LinkState
from runware_flow.session.machine import SessionMachine
from runware_flow.testing.playbook import ANY


def test_handshake_good_key_sends_what_waited():
    with playbook() as play:
        play >> TaskSubmitted(0.0, task()) << OpenConnection() << SetTimer(15.0)
        play >> TaskSubmitted(0.05, task("t2"))
        play >> ConnectionOpened(0.1) << Send((auth(),))
        play >> welcome(0.2) << SessionReady() << Send((submit(task()), submit(task("t2")))) << SetTimer(30.2)


def test_handshake_rejected_key_fails_every_task_and_later_ones():
    rejection = problem("invalidApiKey", None, taskType="authentication", parameter="apiKey")
    play = playbook()
    play >> TaskSubmitted(0.0, task()) << OpenConnection() << SetTimer(15.0)
    play >> ConnectionOpened(0.1) << Send((auth(),))
    play >> received(0.2, errors=[rejection])
    play << CloseConnection(ANY) << EndSession(ANY, is_final=True) << Settle("t1", ANY) << SetTimer(None)
    play >> ConnectionLost(0.3)
    play >> TaskSubmitted(0.4, task("t2")) << Settle("t2", ANY)
    play >> ConnectRequested(0.5) << EndSession(ANY, is_final=True)
    play.check()
    assert errors(play) == {"t1": ("auth", "invalidApiKey"), "t2": ("auth", "invalidApiKey")}
    assert play.commands(Settle)[1].error.task_uuid == "t2"


@pytest.mark.parametrize(
    "answer",
    [
        received(0.2, errors=[problem("accountSuspended", None)]),
        received(0.2, {"taskType": "authentication"}),
        received(0.2, {"taskType": "authentication", "status": "error", "error": {"code": "invalidApiKey"}}),
    ],
    ids=["error without task type", "no session id", "error in item"],
)
def test_handshake_other_rejections_end_the_session(answer):
    play = playbook()
    play >> TaskSubmitted(0.0, task()) >> ConnectionOpened(0.1) >> answer
    assert [end.is_final for end in play.commands(EndSession)] == [True]
    assert errors(play)["t1"][0] == "auth"


def test_handshake_legacy_rejection_ends_the_session():
    from runware_flow.session.events import FrameReceived
    from runware_flow.wire.frames import decode_frame

    legacy = decode_frame(b'{"error":true,"errorMessageContentId":1212,"errorId":19,"errorMessage":"Invalid API key"}')
    play = playbook()
    play >> TaskSubmitted(0.0, task()) >> ConnectionOpened(0.1) >> FrameReceived(0.2, legacy)
    assert errors(play) == {"t1": ("auth", "19")}


def test_handshake_other_errors_and_frames_do_not_end_it():
    with opened() as play:
        play >> TaskSubmitted(1.0, task()) << Send((submit(task()),))
        play >> ConnectionLost(2.0, jitter=0.4) << SetTimer(2.1)
        play >> TimerFired(2.1) << OpenConnection() << SetTimer(17.1)
        play >> ConnectionOpened(2.2) << Send((auth(SESSION),))
        play >> received(2.3, errors=[problem("providerError", "gone"), problem("internalServerError", None)])
        play >> received(2.4, done()) << Deliver("t1", 0, item=ANY) << Settle("t1")
        play >> welcome(2.5, "5e55-0002") << SessionReady() << SetTimer(32.5)


def test_handshake_failure_that_is_no_rejection_is_an_error_at_once_the_first_time():
    play = playbook()
    play >> TaskSubmitted(0.0, task()) << OpenConnection() << SetTimer(15.0)
    play >> ConnectionOpened(0.1) << Send((auth(),))
    play >> received(0.2, errors=[problem("internalServerError", None, taskType="authentication")])
    play << CloseConnection(ANY) << EndSession(ANY, is_final=False) << Settle("t1", ANY) << SetTimer(None)
    play >> ConnectionLost(0.3)
    play.check()
    assert errors(play) == {"t1": ("serverError", "internalServerError")}


def test_first_connection_refused_fails_waiting_tasks_and_next_task_tries_anew():
    play = playbook()
    play >> TaskSubmitted(0.0, task()) << OpenConnection() << SetTimer(15.0)
    (
        play
        >> ConnectionRefused(0.1, "no such host")
        << EndSession(ANY, is_final=False)
        << Settle("t1", ANY)
        << SetTimer(None)
    )
    play >> TaskSubmitted(5.0, task("t2")) << OpenConnection() << SetTimer(20.0)
    play >> ConnectionOpened(5.1) << Send((auth(),))
    play >> ConnectionLost(5.2) << EndSession(ANY, is_final=False) << Settle("t2", ANY) << SetTimer(None)
    play.check()
    assert errors(play) == {"t1": ("connection", "connectionFailed"), "t2": ("connection", "connectionFailed")}
    assert "no such host" in play.commands(Settle)[0].error.message


def test_first_connection_overdue_fails_in_time_and_a_new_wish_waits_for_the_close():
    play = playbook(auth_timeout=2.0)
    play >> TaskSubmitted(0.0, task()) << OpenConnection() << SetTimer(2.0)
    play >> TimerFired(2.0) << CloseConnection(ANY) << EndSession(ANY, is_final=False) << Settle("t1", ANY)
    play >> ConnectionOpened(2.05) << CloseConnection(ANY)
    play >> TaskSubmitted(2.1, task("t2"))
    play >> ConnectionLost(2.2) << OpenConnection() << SetTimer(4.2)
    play.check()
    assert errors(play) == {"t1": ("connection", "connectionFailed")}


def test_silent_authentication_is_an_error_of_code_connection():
    play = playbook(auth_timeout=2.0)
    play >> TaskSubmitted(0.0, task()) >> ConnectionOpened(0.1) >> TimerFired(2.0)
    assert errors(play) == {"t1": ("connection", "authTimeout")}


def test_connect_requested_is_answered_when_ready():
    with opened() as play:
        play >> ConnectRequested(1.0) << SessionReady()


def test_idle_connection_is_pinged_and_given_up_when_silent():
    with opened(silence_timeout=70.0) as play:
        play >> TimerFired(30.2) << Send((PING,)) << SetTimer(60.2)
        play >> received(30.3, {"taskType": "ping", "pong": True})
        play >> TimerFired(60.2) << SetTimer(60.3)
        play >> TimerFired(60.3) << Send((PING,)) << SetTimer(90.3)
        play >> TimerFired(90.3) << Send((PING,)) << SetTimer(100.3)
        play >> TimerFired(100.3) << CloseConnection("nothing came for 70 s")
        play >> ConnectionLost(100.4, jitter=0.0) << SetTimer(100.4)
        play >> TimerFired(100.4) << OpenConnection() << SetTimer(115.4)


def test_busy_connection_is_not_pinged():
    with opened() as play:
        play >> received(30.1)
        play >> TimerFired(30.2) << SetTimer(60.1)


def test_lost_connection_is_resumed_with_backoff_until_it_stands():
    with opened() as play:
        play >> ConnectionLost(20.0, jitter=0.4) << SetTimer(20.1)
        play >> TimerFired(20.1) << OpenConnection() << SetTimer(35.1)
        play >> ConnectionRefused(21.0, "refused", jitter=0.0) << SetTimer(22.0)
        play >> TimerFired(22.0) << OpenConnection() << SetTimer(37.0)
        play >> ConnectionRefused(22.0, "refused", jitter=0.0) << SetTimer(24.0)
        play >> TaskSubmitted(23.0, task())
        play >> TimerFired(24.0) << OpenConnection() << SetTimer(39.0)
        play >> ConnectionOpened(24.1) << Send((auth(SESSION),))
        play >> welcome(24.2) << SessionReady() << Send((submit(task()),)) << SetTimer(54.2)
    assert play.machine.statistics().reconnects == 3


def test_reconnecting_overdue_counts_as_an_attempt():
    with opened(auth_timeout=1.0) as play:
        play >> ConnectionLost(5.0, jitter=0.0) << SetTimer(5.0)
        play >> TimerFired(5.0) << OpenConnection() << SetTimer(6.0)
        play >> ConnectionOpened(5.5) << Send((auth(SESSION),))
        play >> TimerFired(6.0) << CloseConnection(ANY)
        play >> ConnectionLost(6.1, jitter=0.0) << SetTimer(7.1)


def test_reconnecting_given_up_fails_every_task_and_later_tasks_connect_anew():
    play = opened(max_reconnect_attempts=1)
    play >> TaskSubmitted(1.0, task()) << Send((submit(task()),))
    play >> ConnectionLost(2.0, "gone", jitter=0.0) << SetTimer(2.0)
    play >> TimerFired(2.0) << OpenConnection() << SetTimer(17.0)
    play >> ConnectionRefused(2.1, "refused") << EndSession(ANY, is_final=False) << Settle("t1", ANY) << SetTimer(None)
    play >> TaskSubmitted(3.0, task("t2")) << OpenConnection() << SetTimer(18.0)
    play.check()
    assert errors(play) == {"t1": ("connection", "reconnectionFailed")}


def test_key_rejected_on_reconnect_ends_the_session():
    play = opened()
    play >> TaskSubmitted(1.0, task()) >> ConnectionLost(2.0) >> TimerFired(2.0) >> ConnectionOpened(2.1)
    play >> received(2.2, errors=[problem("invalidApiKey", None, taskType="authentication")])
    assert [end.is_final for end in play.commands(EndSession)] == [True]
    assert errors(play) == {"t1": ("auth", "invalidApiKey")}


def test_connection_that_the_service_no_longer_accepts_is_made_anew():
    with opened() as play:
        play >> received(1.0, errors=[problem("unauthorized", None)]) << CloseConnection(ANY) << SetTimer(None)
        play >> ConnectionLost(1.1, jitter=0.0) << SetTimer(1.1)


def test_connection_that_the_service_rejects_later_each_time_is_given_up():
    play = opened(max_reconnect_attempts=2)
    play >> TaskSubmitted(0.3, task())
    for at in (1.0, 6.0):
        play >> received(at, errors=[problem("unauthorized", None)]) >> ConnectionLost(at + 0.1, jitter=0.0)
        play >> TimerFired(at + 3) >> ConnectionOpened(at + 3) >> welcome(at + 3)
    play >> received(9.5, errors=[problem("unauthorized", None)]) >> ConnectionLost(9.6, jitter=0.0)
    assert errors(play) == {"t1": ("connection", "reconnectionFailed")}


def test_steady_connection_starts_the_count_of_attempts_anew():
    play = opened(max_reconnect_attempts=1)
    for start in (20.0, 60.0):
        play >> ConnectionLost(start, jitter=0.0) >> TimerFired(start) >> ConnectionOpened(start) >> welcome(start)
    assert play.machine.state is LinkState.OPEN


def test_connection_that_never_stays_is_given_up():
    play = opened(max_reconnect_attempts=2)
    play >> TaskSubmitted(0.3, task())
    for step in range(2):
        at = 1.0 + 3 * step
        play >> ConnectionLost(at, jitter=0.0) >> TimerFired(at + 2) >> ConnectionOpened(at + 2) >> welcome(at + 2)
    play >> ConnectionLost(9.0, "gone again")
    assert errors(play) == {"t1": ("connection", "reconnectionFailed")}


def test_close_settles_everything_and_later_events_do_nothing():
    play = opened()
    play >> TaskSubmitted(1.0, task()) << Send((submit(task()),))
    play >> SessionClosed(2.0) << Settle("t1", ANY) << CloseConnection(ANY) << SetTimer(None)
    (
        play
        >> received(2.1, done())
        >> TimerFired(2.2)
        >> ConnectionLost(2.3)
        >> TaskWithdrawn(2.4, "t1")
        >> SessionClosed(3.0)
    )
    play.check()
    assert errors(play) == {"t1": ("aborted", "aborted")}
    with pytest.raises(ClientStateError, match="CLOSED cannot take TaskSubmitted"):
        play.machine.handle(TaskSubmitted(4.0, task("t2")))


def test_close_of_an_unused_session_needs_no_connection():
    with playbook() as play:
        play >> SessionClosed(0.0)


def test_illegal_event_names_state_and_event():
    machine = SessionMachine(options())
    with pytest.raises(ClientStateError, match="IDLE cannot take 'opened'"):
        machine.handle(ConnectionOpened(0.0))


def test_unreadable_frame_is_logged_and_harmless():
    machine = SessionMachine(options())
    commands = machine.handle(FrameUnreadable(0.0, "not JSON"))
    assert [type(command) for command in commands] == [Log]


def test_key_is_in_no_repr():
    from session_conversation import KEY

    play = opened()
    shown = repr(options()) + repr(play.machine) + repr(play.commands()) + repr(auth())
    assert KEY not in shown


def test_transitions_every_state_is_reached_and_left():
    reached = set(TRANSITIONS.values()) | {LinkState.IDLE, LinkState.CLOSED}
    assert reached == set(LinkState)
    assert {state for state, _ in TRANSITIONS} == set(LinkState) - {LinkState.REJECTED, LinkState.CLOSED}


def test_replayed_frames_before_the_auth_reply_are_taken():
    play = opened()
    play >> TaskSubmitted(1.0, task()) >> received(1.1, item()) >> ConnectionLost(1.2) >> TimerFired(2.0)
    play >> ConnectionOpened(2.1) >> received(2.2, done())
    assert errors(play) == {"t1": None}
