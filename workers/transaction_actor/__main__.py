"""`python -m spacetimedb.workers.transaction_actor`: the process, started by the supervisor."""

from spacetimedb.workers.transaction_actor.transaction_actor import main

main()
