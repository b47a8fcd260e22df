"""The emulator over HTTP and WebSocket: all that touches sockets, clocks and threads."""
