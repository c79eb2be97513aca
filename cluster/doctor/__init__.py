"""Whether a site is as its profile says: facts from the login node and from one short job, and what they mean."""
