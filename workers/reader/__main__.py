"""`python -m spacetimedb.workers.reader`: the process, started by the supervisor."""

from spacetimedb.workers.reader.reader import main

main()
