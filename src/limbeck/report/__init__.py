"""The report: what a run folder says, as one page that opens anywhere.  No torch; charts are drawn on demand.

`read` reads a run folder, `tables`, `learning`, `charts` and `pictures` make the parts, `page` puts them together
(`write_report`), and `compare` does the same for several runs.  Import what you need from the module
that has it: this package imports nothing, so that the command line waits for no plotting library.
"""

from __future__ import annotations
