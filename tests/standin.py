"""A stand-in for the image's base where no registry can be reached: Debian by debootstrap, imported into Docker.

It installs from where this machine does: its CA bundle, its pip configuration and local wheel folders.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAME = "ingot-standin:snapshot"
CA = Path("/etc/ssl/certs/ca-certificates.crt")


def make() -> str:
    """The stand-in's name; made if Docker has none yet. Needs root and debootstrap."""
    if subprocess.run(["docker", "image", "inspect", NAME], capture_output=True).returncode == 0:
        return NAME
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for place in [CA, Path("/etc/pip.conf")]:
            if place.exists():
                copy(place, root / place.relative_to("/"))
        user = Path.home() / ".config/pip/pip.conf"
        if user.is_file():
            copy(user, root / "root/.config/pip/pip.conf")
        for folder in os.environ.get("PIP_FIND_LINKS", "").split():
            if Path(folder).is_dir():
                copy(Path(folder), root / folder.lstrip("/"))
        name_snapshot(root)
        tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        environment = [f"ENV {name}={CA}" for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")]
        environment += [f"ENV PIP_FIND_LINKS={os.environ.get('PIP_FIND_LINKS', '')}"]
        changes = [word for line in environment for word in ("--change", line)]
        subprocess.run(
            ["docker", "import", *changes, "-", NAME], stdin=tar.stdout, check=True, stdout=subprocess.DEVNULL
        )
        assert tar.wait() == 0
    return NAME


def name_snapshot(root: Path) -> None:
    """Give it Debian's own image's list of sources: the archive's address, which here leads nowhere, and in a comment
    the snapshot's, for which the archive that this machine installs from stands in."""
    old = root / "etc/apt/sources.list"
    _, archive, suite, *components = old.read_text().split()
    old.unlink()
    (root / "etc/apt/sources.list.d/debian.sources").write_text(
        f"Types: deb\n# {archive}\nURIs: http://archive.invalid/debian\nSuites: {suite}\n"
        f"Components: {' '.join(components)}\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
