"""Student's t distribution, without scipy, which callers of ours need not have.

The incomplete beta function by its continued fraction (Lentz), to about ten digits.
"""

from __future__ import annotations

import math
from functools import lru_cache

_STEPS = 500
_TINY = 1e-300
_EXACT = 1e-12


def p_value(t: float, freedom: int) -> float:
    """The chance of a value as far from 0 as ``t`` or farther, with ``freedom`` >= 1 degrees."""
    if math.isinf(t):
        return 0.0
    return _beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@lru_cache(maxsize=10_000)
def quantile(two_sided: float, freedom: int) -> float:
    """The ``t`` whose :func:`p_value` is ``two_sided``: 1.96 for .05 and many degrees.

    By Newton's steps from 0: the curve falls ever less, so that none goes too far.
    """
    t = 0.0
    for _ in range(_STEPS):
        step = (p_value(t, freedom) - two_sided) / (2 * _density(t, freedom))
        t += step
        if step <= 1e-10 * t:
            break
    return t


def _density(t: float, freedom: int) -> float:
    half = (freedom + 1) / 2
    log_height = math.lgamma(half) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    return math.exp(log_height - half * math.log1p(t * t / freedom))


def _beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta(b, a, 1.0 - x)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    )
    return math.exp(log_front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _safe(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _safe(1 + term * d)
            c = _safe(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _EXACT:
            break
    return value


def _safe(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
