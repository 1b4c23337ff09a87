"""Section `raw`: which datasets to fetch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ingot.params.core import Repository, Revision, Section

DatasetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


def leads_out(pattern: str) -> bool:
    """Whether a pattern could reach more than the folder or repository that it is meant for."""
    return pattern.startswith(("/", "~")) or "::" in pattern or "://" in pattern or ".." in pattern.split("/")


class Source(Section):
    """Where one dataset comes from: a local `path` under data/, or a hub `repo` at a pinned `revision`.

    Which of its files are meant `files` says, by patterns; of a hub dataset `split` (and `config`) do as well, both as
    its own page names them. Nothing else is fetched.
    """

    path: str | None = None
    repo: Repository | None = None
    revision: Revision | None = None
    config: str | None = None
    split: Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")] | None = None
    # Patterns as a shell knows them, relative to the folder or repository; ** goes through folders.
    files: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    # The key that holds the rows where a JSON file is one object.
    field: str | None = None
    license: Annotated[str, Field(min_length=1)] | None = None  # for the model card

    @model_validator(mode="after")
    def one_place(self) -> Source:
        if (self.path is None) == (self.repo is None):
            raise ValueError("needs either `path` (a file or folder under data/) or `repo` with `revision`")
        if self.repo is not None:
            if self.revision is None:
                raise ValueError(
                    "`repo` needs `revision`: the commit's 40 hexadecimal digits, from the dataset's history page; "
                    "or write `revision: unpinned` and run `make pin`"
                )
            if (self.split is None) == (self.files is None):
                raise ValueError("`repo` needs either `split`, such as train, or `files`, such as [data/*.parquet]")
            if self.files is not None and self.config is not None:
                raise ValueError("`config` belongs to `split`; `files` says by itself which files are meant")
        if outside := [pattern for pattern in self.files or [] if leads_out(pattern)]:
            raise ValueError(f"the pattern {outside[0]!r} leads out: `files` are relative to the folder or repository")
        if self.path is not None:
            for key in ("revision", "config", "split"):
                if getattr(self, key) is not None:
                    more = "; a local path is pinned by its content" if key == "revision" else "; a folder has `files`"
                    raise ValueError(f"`{key}` belongs to `repo`{more}")
            parts = self.path.split("/")
            if parts[0] != "data" or ".." in parts or len(parts) < 2:
                raise ValueError(f"path {self.path!r} must lie under data/, the folder that the raw stage declares")
        return self


class Raw(Section):
    datasets: Annotated[dict[DatasetName, Source], Field(min_length=1)]
