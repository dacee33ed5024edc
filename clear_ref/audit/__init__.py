"""Which metric can be trusted: models with and without the people, told apart by each number."""
