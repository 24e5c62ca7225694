"""Deploy what is pushed to the main branch. `hookd up --app examples/deploy.py`, and GitHub's webhook at …/github.

The command is DEPLOY_COMMAND's, with the commit and the repository's name after it; without one, it is only said.
"""

import asyncio
import os
import shlex

from pydantic import BaseModel

import hookd


class Repository(BaseModel):
    full_name: str
    default_branch: str


class Author(BaseModel):
    name: str


class Commit(BaseModel):
    author: Author


class Push(BaseModel):
    """Of all that GitHub says of a push, what a deployment needs."""

    ref: str
    after: str
    repository: Repository
    commits: list[Commit]
    deleted: bool = False

    @property
    def is_to_main(self) -> bool:
        return self.ref == f"refs/heads/{self.repository.default_branch}" and not self.deleted


@hookd.on("github", event="push", timeout=600, retries=[60, 600])
async def deploy(push: Push) -> None:
    """Run the command; it is tried again after a minute, and after ten. It may run twice: let it bear that."""
    if not push.is_to_main:
        return
    name, commit = push.repository.full_name, push.after
    authors = ", ".join(sorted({each.author.name for each in push.commits}))
    print(f"deploying {name} at {commit[:7]}, {len(push.commits)} commits by {authors}", flush=True)
    command = shlex.split(os.environ.get("DEPLOY_COMMAND", ""))
    if command:
        await run(*command, commit, name)


async def run(*command: str) -> None:
    """Run a command; at the time-out it is ended with the handler. Raises RuntimeError where it fails."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
    if code != 0:
        raise RuntimeError(f"{command[0]} ended with {code}")


@hookd.on("github", event="ping")
async def ping(event: hookd.Event) -> None:
    """GitHub says hello when a webhook is added."""
    print(event.json()["zen"])
