"""The HTTP requests of a client besides its session: schemas, registry, content, serverless apps, files of results."""
