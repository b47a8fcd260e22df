"""The graph as a machine: what a flow declares, and what may start when a node ends. Sans-IO."""
