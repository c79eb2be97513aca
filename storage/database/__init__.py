"""The study's database: URL, connection, lease and the schema of what a study's rows hold. The driver's side only."""
