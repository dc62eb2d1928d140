"""Whether a vehicle's computer is fit: a drive, four failovers, and a verdict against budgets."""
