"""Whether deploy/fairway.profdata fits: a function is known in it by a name that the compiler makes of more than code."""
import hashlib
import os
import re
import subprocess
import tomllib

from processes import ROOT

PROFILE = f"{ROOT}/deploy/fairway.profdata"
FITS = f"{PROFILE}.fits"
BINARIES = ("fairway", "gateway", "mesh-sidecar")


def fits():
    """Whether the profile was made of this tree's packages by this compiler. What changed in functions it does not say."""
    if not os.path.exists(FITS):
        return False
    with open(FITS) as f:
        return f.read().strip() == origin()


def sign():
    """Notes of what a profile that was just made is."""
    with open(FITS, "w") as f:
        f.write(origin() + "\n")


def shape():
    """The flags of release builds that counters and profile have to be compiled with alike."""
    with open(f"{ROOT}/Makefile") as f:
        return re.findall(r"-Cllvm-args=-(?:disable-vp|inline-threshold=\d+)", f.read())


def origin():
    """A digest of what names depend on: the compiler, its flags, the packages of each binary with their features, and the
    profile."""
    run = lambda *words: subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with open(f"{ROOT}/Cargo.toml", "rb") as f:
        release = tomllib.load(f)["profile"]["release"]
    parts = [run("rustc", "-vV"), *shape(), repr(sorted(release.items()))]
    for package in BINARIES:
        listed = run("cargo", "tree", "--locked", "-p", package, "-e", "normal,build,features", "--prefix", "none")
        # Where the project lies does not matter.
        parts += sorted(set(listed.replace(ROOT, "").splitlines()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
