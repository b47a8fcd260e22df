"""The service over HTTP and WebSocket, and all else that touches a socket, a clock or a thread."""
