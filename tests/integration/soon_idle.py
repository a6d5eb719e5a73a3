"""Imported by a worker under test (``-I soon_idle``): a version is idle after two seconds."""

from celeriac import host
from workers import lifecycle

host.IDLE_S = 2.0
lifecycle.LET_GO_EVERY_S = 0.5
