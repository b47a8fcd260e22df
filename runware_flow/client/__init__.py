"""The client: it drives the session machine over a connection, and uploads and downloads media."""
