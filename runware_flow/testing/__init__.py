"""For tests: the pytest plugin and the playbook of the machines."""
