"""What was reached, beside what is wanted."""
import os
import re


class Goals:
    def __init__(self, sidecars):
        self.rows, self.notes, self.sidecars = [], [], sidecars

    def at_most(self, what, limit, value, unit):
        self.rows.append((what, f"≤ {limit:g} {unit}", f"{value:.4g} {unit}", value <= limit))

    def true(self, what, wanted, found, holds):
        self.rows.append((what, wanted, found, holds))

    def note(self, text):
        self.notes.append(text)

    def hold(self):
        return bool(self.rows) and all(holds for *_, holds in self.rows)

    def table(self, plane, sidecars, mesh):
        counts = sidecars.ask("counts")
        services = len(mesh.namespaces) * mesh.services
        lines = [f"Machine: {machine()}. Control plane and sidecars share {len(os.sched_getaffinity(0))} CPUs.",
                 f"{self.sidecars} sidecars in {counts['scopes']} scopes of {len(mesh.namespaces)} namespaces, "
                 f"{services} services, {services * mesh.endpoints} endpoints.", "",
                 "| what | goal | reached | holds |", "|---|---|---|---|"]
        lines += [f"| {what} | {goal} | {reached} | {'yes' if holds else '**no**'} |"
                  for what, goal, reached, holds in self.rows]
        return "\n".join(lines + ["", *self.notes])


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*:\s*(.*)", f.read())[1]
    return f"{os.cpu_count()} x {model}, Linux {os.uname().release}"


def percentile(values, share):
    """The smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]
