"""hookd migrate: the schema."""

import click

from hookd.configuration import configure, database_of

EPILOG = """\b
Examples:
  hookd migrate
  hookd migrate --sql > hookd.sql       for a DBA to read, and to run with psql

\b
Roles: hookd_receiver may add events, hookd_processor may claim and settle
them, hookd_reader may look; hookd_replier is for a receiver whose handlers
reply (HOOKD_REPLY_DATABASE_URL). Each process can log in as its own:
  CREATE ROLE inbox LOGIN PASSWORD '...' IN ROLE hookd_receiver;
  HOOKD_DATABASE_URL=postgresql://inbox:...@db/app hookd ingest
If the migrating role may not create roles, one that may can do it later:
  SELECT hookd.make_roles();
"""


@click.command(epilog=EPILOG)
@click.option("--sql", is_flag=True, help="Print the script, touch no database.")
def command(sql: bool) -> None:
    """Bring the database's schema up to date, and make the partitions of the days ahead.

    In one transaction; running it again does nothing. All of it is in schema hookd, and nothing else is touched.
    """
    if sql:
        from migrations.upgrade import script  # noqa: PLC0415 - Alembic takes half a second, a wrong setting none

        click.echo(script(), nl=False)
        return
    common = configure().common
    from migrations.store import migrate  # noqa: PLC0415

    with database_of(common) as database:
        done = migrate(database, Waiting().say)
    if done.is_newer:
        click.echo(f"revision {done.before} is newer than this hookd knows ({done.latest}): left as it is")
    elif done.before is None:
        click.echo(f"schema hookd made: revision {done.latest}")
    elif done.before == done.latest:
        click.echo(f"up to date: revision {done.latest}")
    else:
        click.echo(f"brought from revision {done.before} to {done.latest}")
    if done.days_missing:
        click.echo(f"warning: {len(done.days_missing)} days ahead not made, for somebody holds a lock", err=True)
    if done.roles_missing:
        missing = ", ".join(done.roles_missing)
        click.echo(f"warning: no role {missing}: somebody who may can run SELECT hookd.make_roles()", err=True)


class Waiting:
    """Says once that another migration runs."""

    def __init__(self) -> None:
        self._said = False

    def say(self) -> None:
        if not self._said:
            click.echo("another migration is running; waiting", err=True)
        self._said = True
