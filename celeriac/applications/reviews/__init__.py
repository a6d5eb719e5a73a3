"""How reviews sound, one by one and product by product."""
