"""`perception cache`: what the cache holds, and how to clear it."""

from collections import Counter

from rich.markup import escape

from perception_nodes.cli import options
from perception_nodes.cli.common import give, say
from perception_nodes.report.figures import figure_table
from perception_nodes.system.cache import LIMIT_BYTES, cached, trim
from perception_nodes.system.environment import cache_folder


def cache_command(clear: bool = False, as_json: options.Json = False) -> None:
    """List the cache of compiled models, kernels, measurements and the sample drive.

    It is kept below 4 GB: what was not used for the longest time goes first, when a graph starts or
    a model is compiled. What is removed is made again when it is needed. XDG_CACHE_HOME names
    another folder.

    Options:
        clear: Remove all of it.

    Example: perception cache --clear
    """
    removed = trim(0) if clear else 0
    folder, sizes = cache_folder(), Counter[str]()
    for one in cached():
        sizes[one.path.relative_to(folder).parts[0]] += one.size
    facts = {"folder": str(folder), "bytes": sizes, "limit_bytes": LIMIT_BYTES, "removed": removed}
    table = figure_table(["in the cache"], ["MB"], escape(str(folder)))
    for name, size in sizes.most_common():
        table.add_row(escape(name), f"{size / 1e6:.1f}")
    give(facts, table, as_json)
    if clear and not as_json:
        say(f"{removed / 1e6:.1f} MB removed")
