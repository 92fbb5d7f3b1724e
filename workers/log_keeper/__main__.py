"""`python -m spacetimedb.workers.log_keeper`: the process, started by the supervisor."""

from spacetimedb.workers.log_keeper.log_keeper import main

main()
