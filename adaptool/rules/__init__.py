"""The linter: rules in ``families``, one decorated generator each (``catalogue`` has them all), and what runs them."""
