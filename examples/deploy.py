"""Deploy on a push to the main branch: an app for `hookd up --app examples/deploy.py`."""

import hookd


@hookd.on("github", event="push")
async def deploy(event: hookd.Event) -> None:
    """Say what would be deployed."""
    push = event.json()
    repository = push["repository"]
    if push["ref"] != f"refs/heads/{repository['default_branch']}":
        return
    authors = ", ".join(sorted({commit["author"]["name"] for commit in push["commits"]}))
    print(f"deploying {repository['full_name']} at {push['after'][:7]}, {len(push['commits'])} commits by {authors}")


@hookd.on("github", event="ping")
async def ping(event: hookd.Event) -> None:
    """GitHub says hello when a webhook is added."""
    print(event.json()["zen"])
