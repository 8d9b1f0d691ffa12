"""Batches, ranks, steps. Door: `loop.train(policy, batches, objective)`."""
