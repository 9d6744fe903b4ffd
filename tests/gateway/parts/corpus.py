"""Reads the corpus of hostile requests, proxy/src/tests/hostile; how it is written stands in the crate's test of the same name."""

from .node import WORKSPACE

SIMPLE = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "s": b" ", "\\": b"\\"}


def unescaped(text):
    """Octets of a line of the corpus."""
    out, at = b"", 0
    while at < len(text):
        if text[at] != "\\":
            out, at = out + text[at].encode("latin-1"), at + 1
        elif text[at + 1] == "x":
            out, at = out + bytes([int(text[at + 2:at + 4], 16)]), at + 4
        elif text[at + 1] == "{":
            depth, end = 1, at + 2
            while depth:
                if text[end] == "\\":
                    depth += text[end + 1] == "{"
                    end += 2
                else:
                    depth -= text[end] == "}"
                    end += 1
            count, _, unit = text[at + 2:end - 1].partition("*")
            out, at = out + unescaped(unit) * int(count), end
        else:
            out, at = out + SIMPLE[text[at + 1]], at + 2
    return out


class Case:
    def __init__(self, name):
        self.name, self.rfc, self.predicates, self.lines = name, "", [], None

    def take(self, line):
        if self.lines is not None:
            self.lines.append(line)
        elif line == "---":
            self.lines = []
        else:
            word, _, rest = line.partition(" ")
            if word == "rfc":
                self.rfc = rest
            elif word == "expect":
                self.outcome, _, statuses = rest.partition(" ")
                self.statuses = [int(it) for it in statuses.split(",") if it]
            else:
                self.predicates.append((word, rest))

    @property
    def data(self):
        return b"".join(unescaped(it[:-2]) if it.endswith("\\c") else unescaped(it) + b"\r\n" for it in self.lines)

    @property
    def requests(self):
        return next((int(rest) for word, rest in self.predicates if word == "requests"), 1 if self.outcome in ("forward", "either") else 0)


def corpus():
    cases = []
    for path in sorted((WORKSPACE / "proxy/src/tests/hostile").glob("*.txt")):
        for line in path.read_text().removesuffix("\n").split("\n"):
            if line.startswith("=== "):
                cases.append(Case(line[4:]))
            else:
                cases[-1].take(line)
    return cases
