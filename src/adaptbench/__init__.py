"""adaptbench: what does each way of adapting a language model buy, and what does it cost?

Letters used for tensor shapes throughout:

    R runs (seeds trained in one pass)   B batch rows of one run   N = R * B rows
    S source length   T target length   C choices   K shots   P virtual tokens
    D model width   H heads   V vocabulary
"""
