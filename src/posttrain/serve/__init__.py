"""Answers over HTTP, shaped as OpenAI's: an engine, guards, a split of the traffic, and what users say of answers."""
