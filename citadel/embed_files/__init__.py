"""`citadel-embed` and `manage.py embed`: files of texts in, a file of vectors out. A client: URL and key will do."""
