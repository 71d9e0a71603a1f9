"""Sales of cars: schema, mappings, cleaning rules, quality figures, and a market of our own making."""
