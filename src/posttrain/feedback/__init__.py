"""What people, judges and verifiers prefer: the store, and what follows from its ballots. Door: `store.Store.open`."""
