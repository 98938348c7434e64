"""One module a verb of the command line: the dataclass `Options`, and `run(options)`, which returns the exit status.

The options are generated from the dataclass: names, types, defaults, and the docstring under a field as its help.
A verb of several, like `kdrift presets use`, has `VERBS`, the dataclass of each, in place of `Options`.
"""
