"""How each sender names what it sends: a table. An unlisted source has no names, and loses nothing by it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """The headers that bear a sender's name for the event, and for the delivery (the same in each redelivery)."""

    event_type: str | None
    delivery_id: str | None


# Where each fact comes from: the provider's own documentation of its webhooks' headers.
PROVIDERS = {
    "github": Provider("X-GitHub-Event", "X-GitHub-Delivery"),  # docs.github.com/webhooks/webhook-events-and-payloads
    "gitlab": Provider("X-Gitlab-Event", "Idempotency-Key"),  # docs.gitlab.com/user/project/integrations/webhooks
    "gitea": Provider("X-Gitea-Event", "X-Gitea-Delivery"),  # docs.gitea.com/usage/webhooks
    "bitbucket": Provider("X-Event-Key", "X-Request-UUID"),  # support.atlassian.com: event payloads
    "shopify": Provider("X-Shopify-Topic", "X-Shopify-Webhook-Id"),  # shopify.dev/docs/apps/build/webhooks
    "linear": Provider("Linear-Event", "Linear-Delivery"),  # linear.app/developers/webhooks
}

UNNAMED = Provider(None, None)
