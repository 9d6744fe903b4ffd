"""The faults. Each is made on entry and undone on exit, and has the right answer for the time between."""

import contextlib
import dataclasses
import pathlib
import typing

from .lab import DNS, SITES, VANTAGES

# How long nothing may change: longer than any detection, and than the freshness of a vantage (6 s).
WATCHED = 7.5
OTHERS = frozenset(SITES.values()) - {SITES["s1"]}


@dataclasses.dataclass(frozen=True)
class Moves:
    """To one of these; and for so many seconds it does not return."""

    to: frozenset
    stays: float = 0.3


@dataclasses.dataclass(frozen=True)
class Same:
    """No answer changes. Then, if there is more, this is done, and the answers move."""

    then: typing.Optional[typing.Callable] = None
    to: frozenset = OTHERS


class AsIfUp:
    """Any site at any time, and the first in the end."""


@contextlib.contextmanager
def refused(rig):
    rig.kill("site-s1")
    try:
        yield Moves(OTHERS)
    finally:
        rig.start_site("s1")


@contextlib.contextmanager
def black_hole(rig):
    with rig.dropping("s1"):
        yield Moves(OTHERS)


@contextlib.contextmanager
def slow(rig):
    """A request takes 3 s, where a check allows 800 ms."""
    flag = pathlib.Path(rig.path("s1.slow"))
    flag.touch()
    try:
        yield Moves(OTHERS)
    finally:
        flag.unlink()


@contextlib.contextmanager
def half_loss(rig):
    """Half of the packets, each way. The site is as good as dead, but a probe gets through now and then, and answers
    must not return for that."""
    with rig.dropping("s1", 0.5):
        yield Moves(OTHERS, stays=15.0)


@contextlib.contextmanager
def vantage_cut(rig):
    with rig.dropping("v1"):
        yield Same()


@contextlib.contextmanager
def all_vantages_cut(rig):
    with contextlib.ExitStack() as cut:
        for vantage in VANTAGES:
            cut.enter_context(rig.dropping(vantage))
        yield Same()


@contextlib.contextmanager
def engine_partitioned(rig):
    """Neither DNS nodes nor vantages reach control and the engine."""
    with rig.dropping("control"):
        yield Same()


@contextlib.contextmanager
def engine_unseen_by_dns(rig):
    with rig.dropping("control", others=DNS):
        yield Same()


@contextlib.contextmanager
def engine_unseen_by_vantages(rig):
    with rig.dropping("control", others=VANTAGES):
        yield Same()


@contextlib.contextmanager
def dies_unseen(rig):
    """A site dies while no node reaches the engine: no answer changes until one does. Timed from then."""
    with contextlib.ExitStack() as partition, contextlib.ExitStack() as dead:
        partition.enter_context(rig.dropping("control"))
        dead.enter_context(refused(rig))
        yield Same(then=partition.close)


@contextlib.contextmanager
def two_dead(rig):
    """One refuses, one is a black hole, and the third is the one that is left."""
    with rig.dropping("s2"), refused(rig):
        yield Moves(frozenset({SITES["s3"]}))


@contextlib.contextmanager
def all_dead(rig):
    """Every site dies at once: answers as if all were up, once all of them are known to be dead."""
    with contextlib.ExitStack() as dead:
        for site in SITES:
            rig.kill(f"site-{site}")
            dead.callback(rig.start_site, site)
        yield AsIfUp()


ALL = {
    "refused": refused,
    "black-hole": black_hole,
    "slow": slow,
    "half-loss": half_loss,
    "vantage-cut": vantage_cut,
    "all-vantages-cut": all_vantages_cut,
    "engine-partitioned": engine_partitioned,
    "engine-unseen-by-dns": engine_unseen_by_dns,
    "engine-unseen-by-vantages": engine_unseen_by_vantages,
    "dies-unseen": dies_unseen,
    "two-dead": two_dead,
    "all-dead": all_dead,
}
# These measure whether answers stay away, also with the defaults of recovery.
UNHURRIED = ("half-loss",)
# About a minute, and one of each kind.
SHORT = ("refused", "black-hole", "vantage-cut", "all-dead")
