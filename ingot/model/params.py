"""Sections `base` and `merged`: the model to start from, and what the adapter is folded into."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ingot.params.core import Repository, Revision, Section, Seed


class Tiny(Section):
    """A small Qwen2 drawn from a seed, with the real Qwen2 tokenizer. K-quants need rows of a multiple of 256."""

    seed: Seed
    hidden_size: Annotated[int, Field(ge=256, le=4096, multiple_of=256)]
    intermediate_size: Annotated[int, Field(ge=256, le=16384, multiple_of=256)]
    layers: Annotated[int, Field(ge=1, le=64)]
    heads: Annotated[int, Field(ge=1, le=64)]
    kv_heads: Annotated[int, Field(ge=1, le=64)]
    positions: Annotated[int, Field(ge=64, le=131_072)]
    std: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def shapes_fit(self) -> Tiny:
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"heads ({self.heads}) must divide hidden_size ({self.hidden_size}) "
                f"and be a multiple of kv_heads ({self.kv_heads})"
            )
        return self


class Base(Section):
    source: Literal["tiny", "hub", "local"]
    tiny: Tiny | None = None
    repo: Repository | None = None
    revision: Revision | None = None
    path: str | None = None
    parameters: Annotated[int, Field(ge=1_000_000, le=10**13)]
    license: Annotated[str, Field(min_length=1)] | None = None  # for the model card

    @model_validator(mode="after")
    def source_is_complete(self) -> Base:
        wanted = {"tiny": ["tiny"], "hub": ["repo", "revision"], "local": ["path"]}[self.source]
        for key in wanted:
            if getattr(self, key) is None:
                raise ValueError(f"source {self.source!r} needs `{key}`")
        given = [key for key in ("tiny", "repo", "revision", "path") if getattr(self, key) is not None]
        extra = [key for key in given if key not in wanted]
        if extra:
            raise ValueError(f"source {self.source!r} does not use `{extra[0]}`: remove it")
        if self.path is not None:
            parts = self.path.split("/")
            if parts[0] != "models" or ".." in parts or len(parts) < 2:
                raise ValueError(f"path {self.path!r} must lie under models/, the folder that the base stage declares")
        return self


class Merged(Section):
    base: Literal["original", "nf4"]
    device: Literal["cpu", "cuda"]  # to the same bytes
