"""From a command line and a configuration file to Options.

    arguments --flags.py--> flag values --+
                                          +--load.py--> Options, warnings
    file --document.py (grammar.lark)--> entries with positions --settings.py--+

document.py, and with it the parser library, is imported only when there is a file: start-up time counts.
"""
