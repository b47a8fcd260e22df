"""The service's state and rules, sans-IO: tasks and the time go in, frames come out."""
