"""A reader worker: accepts connections, speaks WebSocket (and HTTP: `http`), evaluates subscriptions, fans out.

It reads the commit rings and row heaps of all databases, and writes into their mailboxes. If it dies, its clients
connect again elsewhere.
"""
