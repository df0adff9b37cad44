"""The LLM: a client for OpenAI-compatible endpoints, prompts, what replies mean, and sources made of them."""
