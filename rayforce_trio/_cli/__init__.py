r"""The command line, built on the package's public names; tests/test_layering.py lists the exceptions.

_main                                         parses arguments, runs a command, turns errors into exit codes
_serve, _query, _load, _save, _subscribe,
_publish, _repl, _hash_password               the commands
_options, _target, _secrets, _tls             options of several commands
_authentication, _engine                      options of serve
_parameters                                   -p NAME=VALUE
_session, _interrupts                         a connection, Ctrl-C and time limits
_shell, _shell_commands                       what repl does with an input; the commands such as \tables
_expressions                                  inputs as statements and tokens, without I/O
_lines, _plain_prompt, _prompt                inputs from standard input, and from a terminal without and with colors
_names                                        the names that Tab completes
_formats, _fields, _drawing, _pager           results as text, JSON and CSV
_batched_output                               results that are written while they arrive
_input_file                                   a file, pipe or terminal that is read in threads
_files                                        CSV, Parquet and Arrow files; needs pyarrow
_live_output                                  standard output whose reader may be slow or leave
_console                                      standard output and error, exceptions, exit codes
"""

from ._main import main

__all__ = ["main"]
