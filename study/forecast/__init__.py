"""What a study will cost, from what its site has been measured to take. docs/performance_model.md."""
