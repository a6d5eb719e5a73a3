"""Drift: does what a model is asked now look like what it was made for?

Pure, but for ``dataset``, which reads one, and ``registering``, which has the reference answered:
values and clocks come in, findings go out. ``profile`` is what is kept of the reference,
``features`` and ``bins`` turn items into counts, ``check`` compares a dataset with the profile,
and ``report`` shows what was found. ``window`` and ``episodes`` do so for a stream: no worker calls
them yet.
"""
