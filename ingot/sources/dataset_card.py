"""What a dataset's own README says of its files: splits, configurations, options of the reader."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ingot.console import bounds
from ingot.console.progress import StageError
from ingot.sources.params import Source

# What the README of a hub dataset may tell the readers (`configs`); what is not among it is refused by name.
TOLD = {
    "csv": {"sep", "delimiter", "quotechar", "names", "column_names", "encoding"},
    "json": {"field", "encoding"},
    "parquet": set(),
}
# What it may hold besides, which says nothing about how the files are read.
UNTOLD = {"data_files", "data_dir", "default", "version", "description", "features", "drop_labels", "drop_metadata"}


def config_of(readme: Path | None, name: str, source: Source) -> dict[str, Any]:
    """What the front matter of a dataset's README says of the config that is meant; {} where it lists none."""
    from datasets.utils.metadata import MetadataConfigs

    try:
        card = _front_matter(readme) if readme is not None and readme.is_file() else {}
        configs = MetadataConfigs.from_dataset_card_data(card)
        default = configs.get_default_config_name()
    except Exception as error:  # whatever a stranger's YAML leads the two libraries to
        raise strange(name, source, error) from None
    wanted = source.config or default
    if wanted in configs:
        return configs[wanted]
    if not configs and source.config is None:
        return {}
    there = f"there are {', '.join(configs)}" if configs else f"the README of {source.repo} lists none"
    raise StageError(f"raw.datasets.{name}.config: {source.config or 'missing'}: no such config; {there}")


def _front_matter(readme: Path) -> dict[str, Any]:
    """The YAML between the two lines --- that a README begins with; {} without them. Raises what is wrong with it."""
    import yaml

    if readme.stat().st_size > bounds.README_BYTES:
        raise ValueError(f"it has more than {bounds.README_BYTES // bounds.MB} MB")
    lines = re.split("\r\n|\r|\n", readme.read_text(encoding="utf-8-sig").lstrip())
    if lines[0].rstrip() != "---" or "---" not in lines[1:]:
        return {}
    text = "\n".join(lines[1 : lines.index("---", 1)])
    bounds.check_yaml(yaml.parse(text, Loader=yaml.SafeLoader))
    data = yaml.safe_load(text)
    if not isinstance(data, dict | None):
        raise ValueError("what stands between its two --- is no list of keys and values")
    return data or {}


def strange(name: str, source: Source, error: Exception) -> StageError:
    return StageError(
        f"raw.datasets.{name}: the README of {source.repo} cannot be read: {str(error)[:300]}. "
        'Name the files instead of the split: files: ["data/*.parquet"]'
    )


def told(readme: Path, name: str, source: Source, kind: str) -> dict[str, Any]:
    """What the README says of how the files are read."""
    if source.files is not None:
        return {"field": source.field}
    config = config_of(readme, name, source)
    if unknown := sorted(set(config) - TOLD[kind] - UNTOLD):
        raise StageError(
            f"raw.datasets.{name}: the README of {source.repo} asks for {unknown[0]}: {config[unknown[0]]!r}, "
            "which is not known; choose the files without it: files: [...]"
        )
    return {"field": source.field} | {key: value for key, value in config.items() if key in TOLD[kind]}
