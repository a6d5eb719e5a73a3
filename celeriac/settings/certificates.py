"""How the certificate of a Redis is checked: one meaning for redis-py, kombu and Celery."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlencode

TLS = "rediss://"
CHECK = "ssl_cert_reqs"
CHECKS = ("required", "optional", "none")


def checked(url: str) -> str:
    """``url``; with TLS, that the server's certificate is checked unless it says otherwise.

    Where an address says nothing, redis-py checks, kombu does not, and Celery's result backend
    refuses the address. Of the words for it redis-py takes ``required``, not ``CERT_REQUIRED``.
    """
    if not url.startswith(TLS):
        return url
    address, _, query = url.partition("?")
    options = dict(parse_qsl(query))
    options[CHECK] = options.get(CHECK, CHECKS[0]).removeprefix("CERT_").lower()
    return f"{address}?{urlencode(options, safe='/', quote_via=quote)}"


def is_known(query: str) -> bool:
    """False if the options of an address ask for a check that there is not."""
    return dict(parse_qsl(query)).get(CHECK, CHECKS[0]) in CHECKS
