"""What a webhook is: its request, how each sender signs, names and challenges. Pure: no I/O, no clock, no asyncio."""
