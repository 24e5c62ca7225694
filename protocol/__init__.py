"""What a webhook is: its request, how each sender names it. Pure: no I/O, no clock, no asyncio."""
