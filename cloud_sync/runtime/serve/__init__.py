"""`holdfast serve`: the API and the operator's page."""
