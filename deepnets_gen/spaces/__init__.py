"""Families of architectures beyond DeepNets-1M: for each a genotype with its graph, and a file that builds modules."""
