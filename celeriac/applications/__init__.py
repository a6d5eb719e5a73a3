"""What people build on predictions, as pure logic: no queue, no model library, no clock of its own.

One module or package for each application; ``producer/applications`` carries it out for a caller,
``tasks/`` for workers. A model is a callable that is passed in.
"""
