"""One suite per interface; each implementation inherits it."""
