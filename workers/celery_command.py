"""``python -m workers.celery_command -A workers.app worker ...``: Celery's worker and beat alone.

``celery`` first loads all its sub-commands, a shell among them, and those of other packages; Flower
brings an HTTP server. That is 9 MB and a quarter of a second for each worker. The commands here are
Celery's own, with all their options.
"""

from __future__ import annotations

from celeriac.absent import absent

with absent("pygments", "rich"):  # for colours and frames that nobody here sees: 10 MB
    import click
    import structlog  # noqa: F401 - before ours loads it
    from celery.app.utils import find_app
    from celery.bin.base import CLIContext
    from celery.bin.beat import beat
    from celery.bin.worker import worker


@click.group()
@click.option("-A", "--app", required=True)
@click.pass_context
def main(context: click.Context, app: str) -> None:
    """Run a worker, or beat, of a Celery app."""
    context.obj = CLIContext(app=find_app(app), no_color=False, workdir=None)


main.add_command(worker)
main.add_command(beat)

if __name__ == "__main__":
    main(auto_envvar_prefix="CELERY")
