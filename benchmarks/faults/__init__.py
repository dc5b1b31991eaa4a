"""Real processes, real faults, and a comparison of every answer with the one that the same request got in peace."""
