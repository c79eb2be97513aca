"""Names of components that are not bundled: `package.module:function`, of somebody's own package."""

from __future__ import annotations

from dataclasses import dataclass


class ImportPathError(ValueError):
    """A component's name has a colon and is not MODULE:FUNCTION."""


@dataclass(frozen=True)
class ImportPath:
    """Where a component is imported from."""

    module: str
    attribute: str

    @classmethod
    def parse(cls, name: str) -> ImportPath | None:
        """The import path that a component's name is; None if it is the name of a bundled one.

        Raises:
            ImportPathError: It is neither.
        """
        if ":" not in name:
            return None
        module, _, attribute = name.partition(":")
        if not (all(part.isidentifier() for part in module.split(".")) and attribute.isidentifier()):
            raise ImportPathError(
                f"{name!r} is not an import path; write MODULE:FUNCTION, as in 'mypackage.models:unet'."
            )
        return cls(module, attribute)

    @property
    def package(self) -> str:
        """The module's first part, which is looked for in folders; the others lie inside it."""
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"
