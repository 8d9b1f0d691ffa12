"""What a run takes before it is started: memory, time, disk and price, by formulas alone. No torch, no weights."""
