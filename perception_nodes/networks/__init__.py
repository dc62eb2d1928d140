"""Files of a network and what they say: model.yaml, terms, signature, heads, import."""
