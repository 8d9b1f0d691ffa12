"""posttrain: from text completer to assistant, in one tool.

Importing the package loads neither torch nor transformers; each room is imported where it is used.
"""

__version__ = "0.1.0"
