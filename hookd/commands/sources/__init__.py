"""hookd sources: who sends, by which secret it is verified, and what it is answered."""

import click

from hookd.commands.sources import change, file, look

EPILOG = """\b
Examples:
  hookd sources add github --provider github --secret-file github.secret
  hookd sources list
  hookd sources rotate github --secret-file new.secret --overlap 24h
  hookd sources COMMAND --help

\b
Receivers and processors see a change within two seconds, without a restart.
A secret is never an argument: it comes from a file, a variable or a prompt.
In the database it is sealed, and no command shows it.
"""


class InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder, epilog=EPILOG)
def command() -> None:
    """Register who sends: its provider, its secrets, when it is judged and what it is answered."""


for each in (
    change.add, look.list_, look.show, change.edit, change.rotate, change.remove, file.export, file.apply, file.rekey,
    look.providers,
):  # fmt: skip
    command.add_command(each)
