"""The client: a thin shell that drives the session machine over a link, and brings media in and out."""
