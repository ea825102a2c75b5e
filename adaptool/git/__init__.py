"""The outside world of Git: repositories, revisions, LFS objects. The git binary, read-only but for the setup."""
