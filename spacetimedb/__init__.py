"""A relational database that is also the server: SpacetimeDB with modules written in Python."""
