"""HTTP at a reader: connections, and the backend of the routes in `spacetimedb.http`."""
