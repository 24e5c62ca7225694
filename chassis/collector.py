"""Python's garbage collector, at little cost: what is made at start lives for ever, the rest is seldom a cycle."""

import gc


def relax() -> None:
    """Collect less often. Called before the imports, whose objects it would else look at again and again."""
    gc.set_threshold(50_000, 20, 20)


def spare() -> None:
    """Look no more at what there is by now."""
    gc.freeze()
