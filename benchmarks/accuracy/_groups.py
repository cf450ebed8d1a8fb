"""Which studies a task is of, and which tasks are reported together."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

HEADLINE, SPECIES, SPATIAL = "across studies", "across species", "spatial panels"
WITHIN, FEW = "within a study", "few labels"


class Studies(NamedTuple):
    """One experiment of one laboratory each."""

    reference: str
    query: str

    @property
    def differ(self) -> bool:
        return self.reference != self.query


def studies_of(tasks: dict[str, dict[str, Any]], studies: dict[str, str | list[str]]) -> dict[str, Studies]:
    """Tasks, and the studies of pairs and files -> those of every task."""
    sources = {name: definition.get("pair") or definition["file"] for name, definition in tasks.items()}
    absent, spare = set(sources.values()) - set(studies), set(studies) - set(sources.values())
    if absent or spare:
        wrong = [f"lacks {', '.join(sorted(absent))}"] * bool(absent)
        wrong += [f"names {', '.join(sorted(spare))}, which no task uses"] * bool(spare)
        raise ValueError(f"[studies] {'; '.join(wrong)}.")
    found = {}
    for name, definition in tasks.items():
        named = studies[sources[name]]
        sides = [named, named] if isinstance(named, str) else named
        found[name] = Studies(*(reversed(sides) if definition.get("reversed") else sides))
    return found


def groups_of(
    tasks: dict[str, dict[str, Any]],
    studies: dict[str, Studies],
    *,
    across_species: Collection[str],
    spatial: Collection[str],
) -> dict[str, tuple[str, ...]]:
    """-> tasks of every group, the headline first; a spatial panel is in its own group and in the headline."""
    found: dict[str, list[str]] = {group: [] for group in (HEADLINE, SPECIES, SPATIAL, WITHIN, FEW)}
    for name, definition in tasks.items():
        pair = definition.get("pair", "")
        if "label_fraction" in definition or "labels_per_type" in definition:
            found[FEW].append(name)
        elif pair in across_species:
            found[SPECIES].append(name)
        else:
            found[HEADLINE if studies[name].differ else WITHIN].append(name)
            if pair in spatial:
                found[SPATIAL].append(name)
    return {group: tuple(names) for group, names in found.items()}
