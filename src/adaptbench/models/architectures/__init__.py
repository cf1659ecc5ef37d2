"""Where the parts of a model are, one file for each family. Only these files know module names."""
