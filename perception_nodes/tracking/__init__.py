"""Objects followed from frame to frame: identities, velocities, and where they are by now."""
