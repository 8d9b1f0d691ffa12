"""Modules, weights, attention. Doors: `load.load`, `load.save`, `logprobs.token_logps`."""
