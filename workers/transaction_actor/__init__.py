"""The transaction actor: one process per database, which runs its module and is the only one that writes to it."""
