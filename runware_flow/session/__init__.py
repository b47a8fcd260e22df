"""The session with the service as a machine: events in, commands out, no IO.

`SessionMachine` decides everything that happens between a task and its results: when to connect, to authenticate, to
send, to poll, to send again, and when a task is over. Why and how: docs/explanation/session.md.
"""
