"""Bindings for clients, generated from a module's definition.

`python.py` and `typescript.py` make the texts, `files.py` writes them and finds what is no longer generated.
"""
