"""The same faults against others, set as fast as their documentation allows."""


def measure(peer, run_fault, trials):
    raise SystemExit(f"{peer} is not on this rig yet")
