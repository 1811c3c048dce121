"""Django's PostgreSQL backend, with a check of old connections that asks the kernel instead of the server."""
