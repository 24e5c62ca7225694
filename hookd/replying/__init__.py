"""An answer that somebody wants in the request is the handler's own, or the source's usual one, in time, and never at
the price of the event: its row is committed first, held by the receiver, and a processor's whenever that fails.
"""
