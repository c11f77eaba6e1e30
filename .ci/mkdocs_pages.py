"""The site's pages are the repository's own under their own paths, so that links hold as in a checkout."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_PATTERNS = ("README.md", "experiments/*.md", "experiments/benchmarks/*.md", "tracr_jax/docs/*", ".github/*.md")
_LINKED = ("experiments/dyck.png", "tracr_jax/tasks/base.py")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Every page, and the files that pages link to, in the place of docs_dir."""
    paths = [p for pattern in _PATTERNS for p in sorted(ROOT.glob(pattern)) if p.is_file()]
    for path in [*paths, *(ROOT / name for name in _LINKED)]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for file in [f for f in files if f.generated_by is None and f.src_dir == config.docs_dir]:
        files.remove(file)
    return files
