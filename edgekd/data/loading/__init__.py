"""How data sets are read, split and checked. The data sets themselves are the files one level up."""
