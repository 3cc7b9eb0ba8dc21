"""Getting a server onto this machine: Debian's packages, a Debian in a folder of its own, Kafka's jars from Maven."""

import os
import shutil
import subprocess

from .waiting import NotThere, end_of

SECONDS = 1_800
"""A failure bound for each step: what has not been fetched by then, over a slow line, will not be."""

NEW_DEBIAN = "trixie"
"""Debian 13, whose RabbitMQ is 4.x."""


def debian_packages(*packages):
    """Install them with apt-get, which takes root. Services that come along are not started."""
    if not shutil.which("apt-get"):
        raise NotThere(f"there is no apt-get here to install {' '.join(packages)} with")
    if os.geteuid() != 0:
        raise NotThere(f"installing it takes root: sudo apt-get install {' '.join(packages)}")
    print(f"installing {' '.join(packages)} ...", flush=True)
    # A service that the package itself starts would listen on every address of the machine.
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "SYSTEMD_OFFLINE": "1"}
    run(["apt-get", "update", "-qq"], quiet)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], quiet)
    if shutil.which("systemctl") and "rabbitmq-server" in packages:
        run(["systemctl", "disable", "--quiet", "rabbitmq-server"], quiet)


def debian_root(root, package):
    """A small Debian of its own with this package, in a folder that stays. The machine's own packages are untouched."""
    if os.geteuid() != 0:
        raise NotThere("running the programs of another Debian takes root")
    if root.exists():
        return
    if not shutil.which("debootstrap"):
        debian_packages("debootstrap", "debian-archive-keyring", "procps")
    print(f"unpacking a Debian ({NEW_DEBIAN}) with {package} into {root}: about a minute, once ...", flush=True)
    unfinished = root.with_name("unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    make = ["debootstrap", "--variant=minbase", f"--include={package}", NEW_DEBIAN, str(unfinished), *_debian_mirror()]
    # In a mount namespace of its own, so that nothing stays mounted, however it ends.
    run(["unshare", "--mount", *make])
    unfinished.rename(root)


def maven_jars(pom, libs):
    """The jars that this project file depends on, in a folder that stays."""
    if libs.exists():
        return
    if not (shutil.which("java") and shutil.which("mvn")):
        raise NotThere("it takes Java (17 or newer) and Maven (Debian: apt install default-jre-headless maven)")
    print(f"fetching jars into {libs} ...", flush=True)
    scratch = libs.with_name("unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (scratch / "pom.xml").write_text(pom)
    copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={scratch / 'libs'}"]
    run(["mvn", "-q", "-B", "-f", str(scratch / "pom.xml"), f"-Dmaven.repo.local={scratch / 'repository'}", *copy])
    (scratch / "libs").rename(libs)
    shutil.rmtree(scratch)


def _debian_mirror():
    """The mirror that this machine has its own packages from; none, and so debootstrap's own choice, elsewhere."""
    listing = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    if not shutil.which("apt-get"):
        return []
    said = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    mirrors = [uri for label, _, uri in (line.partition(" ") for line in said.splitlines()) if label == "Debian"]
    return mirrors[:1]


def run(command, variables=None, folder=None):
    """What the command said. Raises NotThere, with the end of it, when it failed or took longer than SECONDS."""
    try:
        done = subprocess.run(
            command,
            env=variables,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotThere(f"`{' '.join(command)}` took longer than {SECONDS} s") from None
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        raise NotThere(f"`{' '.join(command)}` failed with code {done.returncode}{end_of(said)}")
    return said
