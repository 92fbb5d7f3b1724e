"""The supervisor: the process that owns names, programs and the listening socket, and starts all others.

It is the first process of a server (`spacetime start`). For each database it keeps a transaction actor and a log keeper
running, takes snapshots, makes backups, and replaces what dies or does not answer.
"""
