"""What a study found, from its database alone: read, compared, and set as tables, charts and a page."""
