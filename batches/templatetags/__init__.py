"""Template tags of the queue's pages."""
