"""Section `raw`: which datasets to fetch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ingot.params.core import Repository, Revision, Section

DatasetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Source(Section):
    """Where one dataset comes from: a local `path` under data/, or a hub `repo` at a pinned `revision`."""

    path: str | None = None
    repo: Repository | None = None
    revision: Revision | None = None
    # Which part of a hub dataset to use; both as the dataset's own page names them.
    config: str | None = None
    split: str | None = None

    @model_validator(mode="after")
    def one_place(self) -> Source:
        if (self.path is None) == (self.repo is None):
            raise ValueError("needs either `path` (a file or folder under data/) or `repo` with `revision`")
        if self.repo is not None and self.revision is None:
            raise ValueError(
                "`repo` needs `revision`: the commit's 40 hexadecimal digits, from the dataset's history page"
            )
        if self.repo is not None and self.split is None:
            raise ValueError("`repo` needs `split`, such as train")
        if self.path is not None:
            if self.revision is not None:
                raise ValueError("`revision` belongs to `repo`; a local path is pinned by its content")
            parts = self.path.split("/")
            if parts[0] != "data" or ".." in parts or len(parts) < 2:
                raise ValueError(f"path {self.path!r} must lie under data/, the folder that the raw stage declares")
        return self


class Raw(Section):
    datasets: Annotated[dict[DatasetName, Source], Field(min_length=1)]
