"""How a revision runs its SQL: verbatim. (`op.execute(str)` takes ` :word` for a parameter and doubles `%`.)"""

from alembic import op
from sqlalchemy.util import await_only


def run(sql: str) -> None:
    """Run one or several statements as they stand, or print them in `--sql` mode."""
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(sql)
        return
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    await_only(connection.execute(sql))
