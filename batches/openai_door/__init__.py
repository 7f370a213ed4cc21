"""The queued part of OpenAI's API: files, and the batches made of them."""
