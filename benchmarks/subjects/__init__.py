"""What is measured. Each module has the client's side (``connect``) and, if need be, a worker.

A module is imported only by the client's process and the worker's, in the environment that has
its library.
"""
