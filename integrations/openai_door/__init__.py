"""The live part of OpenAI's API: embeddings and models, for clients that change nothing but their base URL."""
