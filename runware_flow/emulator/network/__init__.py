"""What goes wrong: faults as data, and the relay in which connections break as they do in a network."""
