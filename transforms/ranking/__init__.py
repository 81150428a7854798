"""Which images a person should look at: the ends of a ranking, or a random sample; and what a sample's labels say."""
