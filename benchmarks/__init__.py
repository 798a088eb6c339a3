"""What penstock costs, beside what else one could use. See ``README.md``."""
