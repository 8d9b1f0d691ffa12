"""Token ids in, token ids out: what a policy says."""
