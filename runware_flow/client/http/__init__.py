"""What a client reaches by HTTP beside its session: schemas, registry, content, serverless apps, files of results."""
