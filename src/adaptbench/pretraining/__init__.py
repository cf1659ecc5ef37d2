"""Pre-training: corpora, objectives and the loop they are trained in; what it cost stands in a model's provenance.json.

Letters: B rows of a pass, S tokens of its longest row, M predicted tokens of the pass, D model width, V vocabulary.
"""
