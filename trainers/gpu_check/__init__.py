"""What ranks measure of the site that they run on: the allreduce, the training step in each form, the input."""
