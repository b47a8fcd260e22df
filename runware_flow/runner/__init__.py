"""The execution of a flow: the runner, its workers, and the result of a run."""
