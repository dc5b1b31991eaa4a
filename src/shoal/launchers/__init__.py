"""Where processes come from. ``local``: children of this process, supervised by it."""
