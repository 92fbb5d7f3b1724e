"""The processes of a server: a package for each kind, and what several of them share.

`loader`, `snapshotter`, `restorer` and `outbound` are processes with one task each, started when there is something to
do. The packages import nothing from each other.
"""
