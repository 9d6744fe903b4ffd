"""The faults. Each is made on entry and undone on exit, and says which answers are right meanwhile, "same" for no
change at all, or "as if up": some site at any time, and the first in the end."""

import contextlib
import pathlib

from .world import SITES, VANTAGES

# How long nothing may change: longer than any detection, and than the freshness of a vantage (6 s).
WATCHED = 8.0
OTHERS = {SITES["s2"], SITES["s3"]}


@contextlib.contextmanager
def refused(rig):
    rig.kill("site-s1")
    try:
        yield OTHERS
    finally:
        rig.start_site("s1")


@contextlib.contextmanager
def black_hole(rig):
    with rig.dropping("s1"):
        yield OTHERS


@contextlib.contextmanager
def slow(rig):
    flag = pathlib.Path(rig.path("s1.slow"))
    flag.touch()
    try:
        yield OTHERS
    finally:
        flag.unlink()


@contextlib.contextmanager
def half_loss(rig):
    with rig.dropping("s1", 0.5):
        yield OTHERS


@contextlib.contextmanager
def vantage_cut(rig):
    with rig.dropping("v1"):
        yield "same"


@contextlib.contextmanager
def all_vantages_cut(rig):
    with contextlib.ExitStack() as cut:
        for vantage in VANTAGES:
            cut.enter_context(rig.dropping(vantage))
        yield "same"


@contextlib.contextmanager
def engine_partitioned(rig):
    with rig.dropping("control"):
        yield "same"


@contextlib.contextmanager
def two_dead(rig):
    with rig.dropping("s2"):
        with refused(rig):
            yield {SITES["s3"]}


@contextlib.contextmanager
def all_dead(rig):
    """Every site dies at once: answers as if all were up, once all of them are known to be dead."""
    with contextlib.ExitStack() as dead:
        for site in SITES:
            rig.kill(f"site-{site}")
            dead.callback(rig.start_site, site)
        yield "as if up"


ALL = {
    "refused": refused,
    "black-hole": black_hole,
    "slow": slow,
    "half-loss": half_loss,
    "vantage-cut": vantage_cut,
    "all-vantages-cut": all_vantages_cut,
    "engine-partitioned": engine_partitioned,
    "two-dead": two_dead,
    "all-dead": all_dead,
}
