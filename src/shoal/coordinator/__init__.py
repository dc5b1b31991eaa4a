"""Takes requests, admits them, finds them a worker, retries, answers. The surfaces hold no rules: these are here."""
