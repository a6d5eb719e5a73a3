"""The model registry: immutable versions on disk, digests, aliases, history, catalogue.

It knows files and never loads a model.
"""
