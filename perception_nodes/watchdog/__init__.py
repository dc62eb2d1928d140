"""Every frame accounted for, every process watched: ledger, faults, liveness, health."""
