"""A user's own code, named `package.module:function`.

`locate` reads the source without running any of it, so a recipe that names torch code is checked in milliseconds and
without torch; `load` and `call` run it, and turn what goes wrong there into one message with the user's file and line.
"""

from edgekd.plugin.calling import call, load, nameof
from edgekd.plugin.locating import Plugin, check_arguments, locate, look_in
from edgekd.plugin.signature import Parameter

__all__ = ["Parameter", "Plugin", "call", "check_arguments", "load", "locate", "look_in", "nameof"]
