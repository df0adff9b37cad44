"""Serving: text and answer to risk, over HTTP."""
