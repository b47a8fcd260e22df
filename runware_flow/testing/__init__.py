"""What tests use: the pytest plugin and the playbook for the machines."""
