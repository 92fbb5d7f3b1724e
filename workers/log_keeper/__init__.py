"""The log keeper: one process per database that makes commits durable and writes the module log."""
