"""What was reached, beside what is wanted."""
import os
import re


class Goals:
    def __init__(self):
        self.rows, self.notes = [], []

    def at_most(self, what, limit, value, unit):
        self.rows.append((what, f"≤ {limit:g} {unit}", f"{value:.4g} {unit}", value <= limit))

    def true(self, what, wanted, found, holds):
        self.rows.append((what, wanted, found, holds))

    def note(self, text):
        self.notes.append(text)

    def hold(self):
        return all(holds for *_, holds in self.rows)

    def lines(self):
        text = ["| what | goal | reached | holds |", "|---|---|---|---|"]
        text += [f"| {what} | {goal} | {reached} | {'yes' if holds else '**no**'} |"
                 for what, goal, reached, holds in self.rows]
        return [*text, "", *self.notes] if self.notes else text


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*:\s*(.*)", f.read())[1]
    return f"{os.cpu_count()} x {model}, Linux {os.uname().release}"


def percentile(values, share):
    """The smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]
