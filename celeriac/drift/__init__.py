"""Drift: does what a model is asked now look like what it was made for?

Pure: values and clocks come in, findings go out. ``profile`` is what is kept of the reference,
``features`` and ``bins`` turn items into counts, ``check`` compares a dataset with the profile,
``window`` a stream, and ``report`` shows what was found.
"""
