"""A small world, procedurally generated from one seed, with its language, its tasks and its base models.

world.py      invented nouns and their latent features
stories.py    plain text that follows from those features
prompted.py   the multitask mixture that makes a language model follow prompts (the T0 analogue)
episodes.py   in-context episodes (what makes a decoder learn from demonstrations)
corpus.py     the two pre-training streams, one per base model
tokenizer.py  a word-level tokenizer over the closed vocabulary
tasks.py      held-out few-shot tasks, and development tasks on which alone anything is tuned
"""

from adaptbench.microworld.tasks import MicroTask, load, names

__all__ = ["MicroTask", "load", "names"]
